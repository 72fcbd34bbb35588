from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AlbertTokenizer, AutoModelForSequenceClassification, AutoTokenizer, XLNetTokenizer

from models.spec import TaskName
from tests.engine.export_models import stock_model, tiny_model
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.bert import BERT
from worker.engine.anatomy.heads import HeadKind
from worker.engine.errors import ModelError
from worker.engine.prepare import load_model, load_tokenizer
from worker.engine.prepare.load import head_modules
from worker.engine.tasks import TASKS

TASK = TASKS["text-classification"]

BATCH = {"input_ids": torch.tensor([[2, 7, 8, 9, 3]])}


def save_with_head(source: Path, folder: Path, names: list[str]) -> torch.nn.Module:
    """A classifier with a head of those label names, and logits that are easy to tell apart."""
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(names))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: row for row, name in enumerate(names)}
    with torch.no_grad():
        model.classifier.bias.copy_(torch.arange(len(names)) * 10.0)
    model.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**BATCH).logits[0]


def head_weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [weight for part in head_modules(model).values() for weight in part.parameters()]


def test_a_headless_encoder_gets_a_seeded_head(tiny_model: Path) -> None:
    labels = ("a", "b", "c")
    model, trained = load_model(tiny_model, TASK, labels=labels, seed=3)
    torch.manual_seed(1)
    again, _ = load_model(tiny_model, TASK, labels=labels, seed=3)
    other, _ = load_model(tiny_model, TASK, labels=labels, seed=4)
    assert not trained
    assert not model.training
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert torch.equal(logits(model), logits(again))
    assert not torch.equal(logits(model), logits(other))


def test_a_trained_head_is_put_in_the_data_s_order(tiny_model: Path, tmp_path: Path) -> None:
    saved = save_with_head(tiny_model, tmp_path / "m", ["Neutral", "POSITIVE", "negative"])
    model, trained = load_model(tmp_path / "m", TASK, labels=("negative", "neutral", "positive"))
    assert trained
    torch.testing.assert_close(logits(model), logits(saved)[[2, 0, 1]])
    assert model.config.label2id == {"negative": 0, "neutral": 1, "positive": 2}


def test_generic_names_fit_numbered_labels_only(tiny_model: Path, tmp_path: Path) -> None:
    saved = save_with_head(tiny_model, tmp_path / "m", ["LABEL_0", "LABEL_1"])
    model, trained = load_model(tmp_path / "m", TASK, labels=("0", "1"))
    assert trained
    torch.testing.assert_close(logits(model), logits(saved))
    for labels in (("1", "2"), ("bad", "good"), ("0", "1", "2")):
        assert not load_model(tmp_path / "m", TASK, labels=labels)[1]


def test_a_head_for_other_labels_is_not_kept(tiny_model: Path, tmp_path: Path) -> None:
    save_with_head(tiny_model, tmp_path / "m", ["cat", "dog"])
    model, trained = load_model(tmp_path / "m", TASK, labels=("cat", "cow"))
    assert not trained
    assert float(model.classifier.bias.detach().abs().max()) == 0.0


def test_weights_that_are_missing(model_copy: Path) -> None:
    weights = load_file(model_copy / "model.safetensors")
    lacking = {name: value for name, value in weights.items() if "layer.1.attention" not in name}
    assert len(lacking) < len(weights)
    save_file(lacking, model_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="do not fit its config"):
        load_model(model_copy, TASK, labels=("a", "b"))


def test_weights_of_another_shape(model_copy: Path) -> None:
    weights = load_file(model_copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("intermediate.dense.weight"))
    weights[name] = weights[name][:5].clone()
    save_file(weights, model_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="another shape"):
        load_model(model_copy, TASK, labels=("a", "b"))


def test_weights_that_are_no_numbers(model_copy: Path) -> None:
    weights = load_file(model_copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][3, 3] = float("nan")
    save_file(weights, model_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="finite"):
        load_model(model_copy, TASK, labels=("a", "b"))


def test_a_broken_tokenizer(model_copy: Path) -> None:
    (model_copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer cannot be read") as raised:
        load_tokenizer(model_copy)
    assert str(model_copy) not in raised.value.message


class TestHeads:
    """Which heads of a checkpoint count as trained for a task."""

    def saved(self, kind: HeadKind, folder: Path, **config: Any) -> Path:
        model = tiny_model("bert", kind)
        model.config.update(config)
        model.save_pretrained(folder)
        return folder

    @pytest.mark.parametrize(
        ("task", "kind", "labels"),
        [
            ("token-classification", "token", ("label 2", "label 0", "label 1")),
            ("question-answering", "span", ("answer",)),
            ("multiple-choice", "choice", ("A", "B")),
        ],
    )
    def test_a_head_of_the_task_counts(
        self, task: TaskName, kind: HeadKind, labels: tuple[str, ...], tmp_path: Path
    ) -> None:
        model, trained = load_model(self.saved(kind, tmp_path), TASKS[task], labels=labels)
        assert trained
        assert anatomy_of(model).kind == kind
        plain, out = tiny_model("bert", kind), BERT.heads[kind].out
        order = [2, 0, 1] if kind == "token" else range(len(plain.get_submodule(out).bias))
        expected = plain.get_submodule(out).weight[list(order)]
        assert torch.equal(model.get_submodule(out).weight, expected)

    @pytest.mark.parametrize(
        ("task", "kind"),
        [
            ("token-classification", "sequence"),
            ("text-classification", "token"),
            ("multiple-choice", "sequence"),
            ("question-answering", "token"),
            ("multi-label-classification", "sequence"),
        ],
    )
    def test_a_head_of_another_task_does_not(self, task: TaskName, kind: HeadKind, tmp_path: Path) -> None:
        labels = ("label 0", "label 1", "label 2")
        assert not load_model(self.saved(kind, tmp_path), TASKS[task], labels=labels)[1]

    def test_a_head_of_the_same_loss_does(self, tmp_path: Path) -> None:
        labels = ("label 0", "label 1", "label 2")
        folder = self.saved("sequence", tmp_path, problem_type="multi_label_classification")
        model, trained = load_model(folder, TASKS["multi-label-classification"], labels=labels)
        assert trained
        assert model.config.problem_type == "multi_label_classification"


PIECES = ("\u2581the", "\u2581cat", "\u2581who", "\u2581one", "\u2581this")


@pytest.mark.parametrize(
    ("tokenizer_class", "special", "family", "expected"),
    [
        (AlbertTokenizer, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], "albert", [0, 0, 0, 0, 1, 1, 1, 1]),
        (
            XLNetTokenizer,
            ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"],
            "xlnet",
            [0, 0, 0, 1, 1, 1, 1, 2],
        ),
    ],
)
def test_a_tokenizer_that_does_not_say_so_makes_segments(
    tokenizer_class: type, special: list[str], family: str, expected: list[int], tmp_path: Path
) -> None:
    """As transformers 5 writes it; the tokenizer that is delivered then says so itself."""
    stock_model(family, "sequence", pad_token_id=special.index("<pad>")).config.save_pretrained(tmp_path)
    vocabulary = [*((name, 0.0) for name in special), *((piece, -4.0) for piece in PIECES)]
    tokenizer_class(vocab=vocabulary).save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded("the cat", "who one this")["token_type_ids"] == expected
    loaded.save_pretrained(tmp_path / "delivered")
    delivered = AutoTokenizer.from_pretrained(tmp_path / "delivered")
    assert delivered("the cat", "who one this")["token_type_ids"] == expected
