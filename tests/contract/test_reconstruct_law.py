"""Reconstruction on every architecture: it helps, it can be replayed, and the law still holds."""

from __future__ import annotations

import copy
from pathlib import Path

import onnxruntime
import pytest
import torch

from models.spec import PruneHeads, PruneLayers, PruneWeightGroups, Recipe
from tests.engine.export_models import (
    CHANNELS,
    FAMILIES,
    WITH_TOKEN_TYPES,
    logits,
    padded_batch,
    random_recipe,
    tiny_classifier,
)
from tests.engine.significance.test_estimators import TASK, ragged
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.device import Device
from worker.engine.export.onnx import export_onnx
from worker.engine.export.safetensors import load_folder, save_folder
from worker.engine.training.reconstruct import reconstruct

DEVICE = Device.pick("cpu")
TOLERANCE = 1e-4
MILD = Recipe(
    steps=(
        PruneHeads(layer=0, heads=(1,)),
        PruneHeads(layer=2, heads=(0, 3)),
        PruneWeightGroups(layer=1, channels=tuple(range(0, CHANNELS, 3))),
        PruneWeightGroups(layer=3, channels=tuple(range(12))),
    )
)

QUICK = ("bert", "modernbert", "mpnet")
FAMILIES_BY_TIME = [
    family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES
]


def rebuilt(dense: torch.nn.Module, recipe: Recipe, rows: int = 300) -> torch.nn.Module:
    student = sliced(dense, anatomy_of(dense).shape(recipe))
    reconstruct(student, dense, ragged(rows), TASK, DEVICE, damping=0.01)
    return student


@pytest.mark.parametrize("family", FAMILIES_BY_TIME)
def test_reconstructed_models_are_nearer_to_the_dense_one_and_replayable(family: str) -> None:
    dense = tiny_classifier(family)
    before = copy.deepcopy(dense.state_dict())
    unseen = ragged(80, seed=1).batch(torch.arange(80).numpy())
    expected = logits(dense, unseen.inputs)
    plain = sliced(dense, anatomy_of(dense).shape(MILD))
    one, other = rebuilt(dense, MILD), rebuilt(dense, MILD)
    errors = [float((logits(model, unseen.inputs) - expected).square().mean()) for model in (plain, one)]
    assert errors[1] < 0.9 * errors[0]
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])
    for name, weight in dense.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("family", FAMILIES_BY_TIME)
def test_masked_is_sliced_is_reloaded_after_reconstruction(family: str, tmp_path: Path) -> None:
    dense = tiny_classifier(family)
    tokenizer = wordpiece_tokenizer(["a few words", "and some more of them"], 100)
    names = ["input_ids", *["token_type_ids"] * (family in WITH_TOKEN_TYPES), "attention_mask"]
    tokenizer.model_input_names = names
    first = MILD.then(PruneLayers(layers=(1,)))
    between = rebuilt(dense, first, rows=40)
    batch = padded_batch(between)
    save_folder(between, tokenizer, tmp_path / "between")
    reloaded = load_folder(tmp_path / "between")
    torch.testing.assert_close(logits(reloaded, batch), logits(between, batch), rtol=0.0, atol=TOLERANCE)
    export_onnx(between, tokenizer, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {given.name: batch[given.name].numpy() for given in session.get_inputs()}
    answered = torch.from_numpy(session.run(["logits"], feed)[0])
    torch.testing.assert_close(answered, logits(between, batch), rtol=0.0, atol=TOLERANCE)
    for seed in range(4):
        shape = anatomy_of(between).shape(random_recipe(seed))
        small = sliced(between, shape)
        batch = padded_batch(small)
        with anatomy_of(between).masked(shape):
            masked = logits(between, batch)
        torch.testing.assert_close(logits(small, batch), masked, rtol=0.0, atol=TOLERANCE)


def test_a_whole_model_is_left_as_it_is() -> None:
    dense = tiny_classifier("bert")
    same = rebuilt(dense, Recipe())
    batch = padded_batch(dense)
    torch.testing.assert_close(logits(same, batch), logits(dense, batch), rtol=0.0, atol=1e-4)


def test_what_was_lost_before_a_layer_is_made_up_for_in_it() -> None:
    """The other projections, solved as well, bring it nearer than the one that lost its heads alone."""
    dense = tiny_classifier("bert")
    recipe = Recipe(steps=(PruneHeads(layer=0, heads=(0, 1)),))
    unseen = ragged(80, seed=1).batch(torch.arange(80).numpy())
    expected = logits(dense, unseen.inputs)
    plain, whole = sliced(dense, anatomy_of(dense).shape(recipe)), rebuilt(dense, recipe)
    partly = copy.deepcopy(plain)
    part, solved = anatomy_of(partly).parts[0], anatomy_of(whole).parts[0]
    assert part.attention_output is not None
    assert solved.attention_output is not None
    part.attention_output.load_state_dict(solved.attention_output.state_dict())
    errors = [
        float((logits(model, unseen.inputs) - expected).square().mean()) for model in (plain, partly, whole)
    ]
    assert errors[2] < errors[1] < errors[0]
