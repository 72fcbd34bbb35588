"""The torch.export program answers as the model does, for any batch and any length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from models.spec import JobSpec, PruneHeads, Recipe
from tests.engine.export_models import (
    FAMILIES,
    logits,
    padded_batch,
    random_recipe,
    stacked,
    tiny_model,
)
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.heads import HeadKind
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.torch_program import PROGRAM_FILE, exported_program, save_program_folder

KINDS: tuple[HeadKind, ...] = ("sequence", "token", "span", "choice")
TOLERANCE = 1e-4


def answers(program: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    given = program(**batch)
    return torch.stack(given, dim=-1) if isinstance(given, tuple) else given


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, KINDS[number % len(KINDS)]) for number, family in enumerate(FAMILIES)]
    + [("bert", kind) for kind in KINDS],
)
def test_answers_as_the_model_does(family: str, kind: HeadKind, tmp_path: Path) -> None:
    dense = tiny_model(family, kind)
    model = sliced(dense, anatomy_of(dense).shape(random_recipe(3)))
    batch = padded_batch(model)
    batch = stacked(batch) if kind == "choice" else batch
    torch.export.save(exported_program(model, list(batch)), tmp_path / PROGRAM_FILE)
    program = torch.export.load(tmp_path / PROGRAM_FILE).module()
    for rows, length in ((1, 11), (2, 4), (2, 1), (1, 1)):
        part = {name: values[:rows, ..., :length] for name, values in batch.items()}
        difference = (answers(program, part) - logits(model, part)).abs().max()
        assert difference < TOLERANCE, (rows, length)


def test_knows_no_more_positions_than_the_model() -> None:
    model = tiny_model("roberta", "sequence")
    batch = padded_batch(model)
    program = exported_program(model, list(batch)).module()
    positions = model.config.max_position_embeddings - model.config.pad_token_id - 1
    longest = torch.full((1, positions), 7)
    given = {"input_ids": longest, "attention_mask": torch.ones_like(longest)}
    torch.testing.assert_close(answers(program, given), logits(model, given), rtol=0.0, atol=TOLERANCE)
    with pytest.raises((AssertionError, RuntimeError), match=r"46|length|dimension|shape"):
        program(**{name: torch.cat((values, values[:, :1]), dim=1) for name, values in given.items()})


def test_the_folder_needs_no_transformers(tmp_path: Path) -> None:
    dense = tiny_model("bert", "sequence")
    model = sliced(dense, anatomy_of(dense).shape(Recipe(steps=(PruneHeads(layer=0, heads=(1,)),))))
    tokenizer = wordpiece_tokenizer(["a few words"], 100)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    save_program_folder(model, tokenizer, tmp_path, max_length=16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.json", PROGRAM_FILE, "tokenizer.json"]
    assert all(weight.requires_grad for weight in model.parameters())  # it is left as it was


def test_a_task_without_programs_is_refused_with_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "base_model": {"path": "/m"},
        "dataset": {"path": "/d"},
        "task": "regression",
        "exports": ["onnx", "torch_export"],
    }
    assert JobSpec.model_validate(document).exports == ("onnx", "torch_export")
    monkeypatch.setattr("models.spec.job.TORCH_EXPORT_TASKS", ("text-classification",))
    with pytest.raises(ValidationError, match="no torch_export of task regression"):
        JobSpec.model_validate(document)
