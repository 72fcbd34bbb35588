"""The law of the engine for every head: masked == sliced == reloaded == ONNX, 1e-4 on fp32 logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import PruneHeads, PruneLayers, PruneWeightGroups, Quantize, Recipe
from tests.engine.export_models import (
    FAMILIES,
    LAYERS,
    NEVER_NATIVE,
    WITH_TOKEN_TYPES,
    clear_batch,
    logits,
    random_recipe,
    stacked,
    tiny_model,
)
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.heads import AUTO_CLASSES, BY_TOKEN, HeadKind
from worker.engine.anatomy.slicing import is_native, sliced
from worker.engine.export.onnx import export_onnx, quantize_onnx
from worker.engine.export.safetensors import load_folder, save_folder
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.probing import ModelFile, probe

HEADS: tuple[HeadKind, ...] = ("token", "span", "choice")
TOLERANCE = 1e-4
RECIPES = 6


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return wordpiece_tokenizer(["a few words", "and some more of them"], 100)


def batch_for(model: PreTrainedModel, kind: HeadKind, seed: int = 0) -> dict[str, torch.Tensor]:
    return clear_batch(model, seed, stacked if kind == "choice" else dict)


def real(values: torch.Tensor, batch: dict[str, torch.Tensor], kind: HeadKind) -> torch.Tensor:
    """What is said about padding is nobody's."""
    return values[batch["attention_mask"].bool()] if kind in BY_TOKEN else values


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0.0, atol=TOLERANCE)


def onnx_logits(path: Path, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {given.name: batch[given.name].numpy() for given in session.get_inputs()}
    spans = len(session.get_outputs()) == 2
    names = ["start_logits", "end_logits"] if spans else ["logits"]
    outputs = [torch.from_numpy(output) for output in session.run(names, feed)]
    return outputs[0] if len(outputs) == 1 else torch.stack(outputs, dim=-1)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_form_of_a_model_answers_the_same(
    family: str, kind: HeadKind, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = tiny_model(family, kind)
    names = ["input_ids", *["token_type_ids"] * (family in WITH_TOKEN_TYPES), "attention_mask"]
    tokenizer.model_input_names = names
    anatomy = anatomy_of(dense)
    assert anatomy.kind == kind
    assert anatomy.parameters(anatomy.full_shape()) == dense.num_parameters()
    changed, natives = 0, 0
    for seed in range(RECIPES):
        recipe = random_recipe(seed, uniform=seed % 3 == 0)
        shape = anatomy.shape(recipe)
        small = sliced(dense, shape)
        batch = batch_for(small, kind)  # ids of the vocabulary that is left, which the masked model takes too
        with anatomy.masked(shape):
            masked = real(logits(dense, batch), batch, kind)
        assert_same(real(logits(small, batch), batch, kind), masked)
        native = is_native(anatomy, shape)
        assert save_folder(small, tokenizer, tmp_path / str(seed)) == ("native" if native else "remote_code")
        elsewhere = AUTO_CLASSES[kind].from_pretrained(tmp_path / str(seed), trust_remote_code=not native)
        for reloaded in (elsewhere, load_folder(tmp_path / str(seed))):
            assert_same(real(logits(reloaded.eval(), batch), batch, kind), masked)
        assert elsewhere.num_parameters() == anatomy.parameters(shape)
        path = tmp_path / f"{seed}.onnx"
        export_onnx(small, tokenizer, path)
        for other in range(2):
            again = batch_for(small, kind, other)
            expected = real(logits(small, again), again, kind)
            assert_same(real(onnx_logits(path, again), again, kind), expected)
        changed += not torch.allclose(masked, real(logits(dense, batch), batch, kind), atol=1e-2)
        natives += native
    assert changed >= 4, "recipes that change nothing prove nothing"
    assert natives < RECIPES
    assert (natives == 0) == (family in NEVER_NATIVE)


@pytest.mark.parametrize("kind", HEADS)
def test_slices_of_slices(kind: HeadKind, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    dense = tiny_model("roberta", kind)
    for seed in range(4):
        first = random_recipe(seed, uniform=seed % 2 == 0, low_rank=False)
        second = random_recipe(100 + seed)
        save_folder(sliced(dense, anatomy_of(dense).shape(first)), tokenizer, tmp_path / str(seed))
        between = load_folder(tmp_path / str(seed))
        last = sliced(between, anatomy_of(between).shape(second))
        batch = batch_for(last, kind)
        with anatomy_of(dense).masked(anatomy_of(dense).shape(first.then(*second.steps))):
            expected = real(logits(dense, batch), batch, kind)
        assert_same(real(logits(last, batch), batch, kind), expected)


@pytest.mark.parametrize("kind", HEADS)
def test_int8_answers_nearly_the_same(
    kind: HeadKind, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = tiny_model("roberta", kind)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    export_onnx(dense, tokenizer, tmp_path / "fp32.onnx")
    quantize_onnx(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", Quantize())
    batch = batch_for(dense, kind)
    plain, int8 = (
        real(onnx_logits(tmp_path / f"{name}.onnx", batch), batch, kind) for name in ("fp32", "int8")
    )
    assert 0 < float((plain - int8).abs().max()) < 0.25 * float(plain.max() - plain.min())


STEPS = (
    PruneLayers(layers=(1,)),
    *(PruneWeightGroups(layer=layer, channels=tuple(range(20))) for layer in range(LAYERS)),
)


@pytest.mark.parametrize(
    "remote",
    [pytest.param(False, id="native", marks=pytest.mark.slow), pytest.param(True, id="remote_code")],
)
@pytest.mark.parametrize("kind", HEADS)
def test_probes_of_both_runtimes_answer_what_the_model_does(
    kind: HeadKind, remote: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Row by row, or token by token without padding, whatever batches are."""
    dense = tiny_model("distilbert", kind)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    recipe = Recipe(steps=(*STEPS, *[PruneHeads(layer=0, heads=(1,))] * remote))
    model = sliced(dense, anatomy_of(dense).shape(recipe))
    save_folder(model, tokenizer, tmp_path / "folder")
    export_onnx(model, tokenizer, tmp_path / "model.onnx")
    generator = np.random.default_rng(0)
    rows = [generator.integers(5, 300, size=length) for length in (3, 9, 5, 5, 2, 7)]
    choices = 3 if kind == "choice" else None
    alone = []
    for first in range(0, len(rows), choices or 1):
        ids = BenchInputs.in_order(rows[first : first + (choices or 1)], batch_size=1, choices=choices)
        batch = {name: torch.from_numpy(v) for name, v in ids.stacked(next(ids.batches())).items()}
        batch.pop("token_type_ids")
        answer = logits(model, batch).numpy()
        alone.append(answer[0] if kind in BY_TOKEN else answer)
    inputs = BenchInputs.in_order(rows, batch_size=2, choices=choices)
    for file in (
        ModelFile(tmp_path / "model.onnx"),
        ModelFile(tmp_path / "folder", "torch", remote_code=remote),
    ):
        with probe(file, inputs, threads=1) as running:
            np.testing.assert_allclose(running.logits(), np.concatenate(alone), atol=TOLERANCE)
