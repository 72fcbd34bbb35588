"""XLNet as one of the engine's own models: the same function as transformers' own classes compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    XLNetLMHeadModel,
    XLNetModel,
    XLNetTokenizer,
)

from models.spec import PruneHeads, PruneHidden, PruneVocabulary, Recipe, TaskName
from tests.contract.test_heads_law import onnx_logits, real
from tests.engine.export_models import logits, stock_model
from tests.engine.task_runs import task_spec
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.heads import HeadKind
from worker.engine.anatomy.slicing import is_native, recast, sliced
from worker.engine.errors import ModelError
from worker.engine.export.modeling_axforge import AxforgeEncoder
from worker.engine.export.onnx import export_onnx
from worker.engine.export.safetensors import load_folder, save_folder
from worker.engine.export.torch_program import exported_program
from worker.engine.prepare import load_model, load_tokenizer
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.prepare import positions, prepare
from worker.engine.tasks import TASKS
from worker.engine.vocabulary import needed_rows, with_rows

KINDS: tuple[HeadKind, ...] = ("sequence", "token", "span", "choice")
SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eop>", "<eod>")
PADDING = SPECIAL.index("<pad>")
PAIRS = [
    ("the cat sat on the mat and looked at us", "who sat there"),
    ("a", "b"),
    ("no second text is as long as this one is", "but the first one may be"),
]


WORDS = ("the", "cat", "sat", "who", "one", "this")
LETTERS = "\u2581abcdefghijklmnopqrstuvwxyz"
PIECES = [
    *((name, 0.0) for name in SPECIAL),
    *((letter, -8.0) for letter in LETTERS),
    *((f"\u2581{word}", -4.0) for word in WORDS),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """XLNet's own, of letters and some words: it pads in front and puts `<cls>` at the end."""
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return XLNetTokenizer(vocab=PIECES, model_input_names=names)


def as_batch(tokenizer: PreTrainedTokenizerBase, kind: HeadKind, side: str) -> dict[str, torch.Tensor]:
    firsts, seconds = zip(*PAIRS, strict=True)
    tokenizer.padding_side = side
    batch = dict(tokenizer(firsts, seconds, padding=True, return_tensors="pt"))
    tokenizer.padding_side = "left"
    return {name: value[None] for name, value in batch.items()} if kind == "choice" else batch


@pytest.mark.parametrize("kind", KINDS)
def test_computes_what_the_stock_model_does(kind: HeadKind, tokenizer: PreTrainedTokenizerBase) -> None:
    """Pairs of several lengths, padded as the tokenizer does, in front."""
    stock = stock_model("xlnet", kind, pad_token_id=PADDING)
    own = recast(stock)
    batch = as_batch(tokenizer, kind, "left")
    assert batch["input_ids"].flatten()[batch["input_ids"].shape[-1]] == PADDING
    assert batch["token_type_ids"].unique().tolist() == [0, 1, 2]
    expected = real(logits(stock, batch), batch, kind)
    torch.testing.assert_close(real(logits(own, batch), batch, kind), expected, atol=1e-5, rtol=0.0)
    behind = as_batch(tokenizer, kind, "right")
    torch.testing.assert_close(real(logits(own, behind), behind, kind), expected, atol=1e-5, rtol=0.0)
    for name in ("token_type_ids", "attention_mask"):
        less = {key: value for key, value in batch.items() if key != name}
        without = real(logits(stock, less), batch, kind)
        assert not torch.allclose(without, expected, atol=1e-3)
        torch.testing.assert_close(real(logits(own, less), batch, kind), without, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_a_smaller_one_answers_the_same(
    kind: HeadKind, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """With its own tokenizer, whichever side that pads on; heads, dimensions and rows are gone."""
    dense = recast(stock_model("xlnet", kind, pad_token_id=PADDING))
    anatomy = anatomy_of(dense)
    steps = (PruneHeads(layer=1, heads=(0, 2)), PruneHidden(dimensions="3-9"), PruneVocabulary(rows="0-99"))
    shape = anatomy.shape(Recipe(steps=steps))
    small = sliced(dense, shape)
    assert not is_native(anatomy, shape)
    assert save_folder(small, tokenizer, tmp_path / "folder") == "remote_code"
    export_onnx(small, tokenizer, tmp_path / "model.onnx")
    reloaded = load_folder(tmp_path / "folder")
    program = exported_program(small, list(as_batch(tokenizer, kind, "left"))).module()
    for side in ("left", "right"):
        batch = as_batch(tokenizer, kind, side)
        with anatomy.masked(shape):
            masked = real(logits(dense, batch), batch, kind)
        given = program(**batch)
        forms = {
            "sliced": logits(small, batch),
            "reloaded": logits(reloaded, batch),
            "onnx": onnx_logits(tmp_path / "model.onnx", batch),
            "program": torch.stack(given, dim=-1) if isinstance(given, tuple) else given,
        }
        for name, answers in forms.items():
            difference = float((real(answers, batch, kind) - masked).abs().max())
            assert difference < 1e-4, (name, side)


def test_sinusoids_keep_their_width_when_the_stream_loses_dimensions() -> None:
    dense = recast(stock_model("xlnet", "sequence"))
    anatomy = anatomy_of(dense)
    shape = anatomy.shape(Recipe(steps=(PruneHidden(dimensions="0-15"), PruneHeads(layer=0, heads=(3,)))))
    part = anatomy_of(sliced(dense, shape)).parts[0]
    width = anatomy.head_size * (anatomy.heads - 1)
    assert part.by_head["query"].weight.shape == (width, anatomy.hidden_size - 16)
    assert part.by_head["distance_key"].weight.shape == (width, anatomy.hidden_size)
    whole = anatomy.parts[0].by_head["distance_key"].weight
    assert torch.equal(part.by_head["distance_key"].weight, whole[:width])


def test_a_model_without_segments_is_one_of_a_single_segment() -> None:
    """What transformers leaves out then is the same for all keys of a query."""
    stock = stock_model("xlnet", "sequence")
    ids = torch.arange(5, 14)[None]
    same = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    without = logits(recast(stock), {"input_ids": ids})
    torch.testing.assert_close(logits(recast(stock), same), without, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(logits(stock, same), without, atol=1e-5, rtol=0.0)


class TestLoading:
    @pytest.mark.parametrize(
        ("task", "kind", "labels"),
        [
            ("text-classification", "sequence", ("label 1", "label 2", "label 0")),
            ("token-classification", "token", ("label 2", "label 0", "label 1")),
            ("question-answering", "span", ("answer",)),
            ("multiple-choice", "choice", ("A", "B")),
        ],
    )
    def test_a_trained_head_is_kept(
        self, task: TaskName, kind: HeadKind, labels: tuple[str, ...], tmp_path: Path
    ) -> None:
        stock = stock_model("xlnet", kind)
        stock.save_pretrained(tmp_path)
        model, trained = load_model(tmp_path, TASKS[task], labels=labels)
        assert trained
        assert isinstance(model, AxforgeEncoder)
        assert not model.training
        ids = torch.arange(5, 14).view(1, 9)
        batch = {"input_ids": ids[None] if kind == "choice" else ids}
        order = [int(label[-1]) for label in labels] if labels[0].startswith("label") else slice(None)
        expected = logits(stock, batch)[..., order]
        torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=0.0)

    @pytest.mark.parametrize("stock_class", [XLNetModel, XLNetLMHeadModel])
    def test_a_pretrained_model_gets_a_fresh_head(
        self, stock_class: type[PreTrainedModel], tmp_path: Path
    ) -> None:
        config = stock_model("xlnet", "sequence").config
        torch.manual_seed(0)
        pretrained = stock_class(config).eval()
        pretrained.save_pretrained(tmp_path)
        model, trained = load_model(tmp_path, TASKS["text-classification"], labels=("a", "b"), seed=3)
        assert not trained
        ids = torch.arange(5, 14)[None]
        encoder = getattr(pretrained, "transformer", pretrained)
        with torch.no_grad():
            expected = encoder(ids).last_hidden_state
            states = model(ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[-1], expected, atol=1e-5, rtol=0.0)
        assert model.num_labels == 2

    def test_a_stock_class_for_the_result_is_refused(self, tmp_path: Path) -> None:
        spec = task_spec(
            "text-classification",
            tmp_path,
            "xlnet",
            constraints={"loadable": "native"},
            exports=["onnx", "safetensors"],
        )
        with pytest.raises(ModelError, match="never as native") as caught:
            prepare(Run(spec, tmp_path / "run", SilentReporter()))
        assert caught.value.pointer == "/constraints/loadable"

    def test_a_run_goes_on_with_the_model_that_it_wrote(self, tmp_path: Path) -> None:
        """Its dense model is one of the engine's own, whose code is not run from the folder."""
        run = Run(task_spec("text-classification", tmp_path, "xlnet"), tmp_path / "run", SilentReporter())
        model, _ = load_model(tmp_path / "model", run.task, labels=("a", "b"))
        save_folder(model, load_tokenizer(tmp_path / "model"), run.dense_folder)
        held, ids = run.dense.anatomy.model, {"input_ids": torch.arange(5, 14)[None]}
        assert isinstance(held, AxforgeEncoder)
        torch.testing.assert_close(logits(held.cpu(), ids), logits(model, ids), atol=1e-6, rtol=0.0)

    def test_no_end_of_positions(self, tmp_path: Path) -> None:
        stock_model("xlnet", "sequence").config.save_pretrained(tmp_path)
        assert positions(tmp_path) > 10**6


class TestTokenizer:
    def test_loses_pieces_and_keeps_its_frame(self, tokenizer: PreTrainedTokenizerBase) -> None:
        texts, others = ["the cat", "who sat"], ["this one is new", "cat"]
        used = np.concatenate(tokenizer(texts)["input_ids"])
        rows = needed_rows(tokenizer, used, len(tokenizer))
        assert len(rows) < len(tokenizer)
        smaller = with_rows(tokenizer, rows)
        for text in texts:
            assert [rows[number] for number in smaller(text)["input_ids"]] == tokenizer(text)["input_ids"]
        for text in (*texts, *others):
            ids = smaller(text)["input_ids"]
            assert ids[-1] == smaller.cls_token_id
            assert smaller.unk_token_id not in ids
            assert smaller(text)["token_type_ids"][-1] == 2
        assert smaller.padding_side == "left"
