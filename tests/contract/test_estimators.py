"""What every estimator of significance keeps to, on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.spec import ESTIMATORS as NAMES
from models.spec import HardAttention, PruneHeads, PruneLayers, PruneWeightGroups, Recipe
from tests.engine.export_models import CHANNELS, FAMILIES, LAYERS, logits, padded_batch, tiny_classifier
from tests.engine.significance.test_estimators import TASK, ragged
from worker.engine.anatomy import Anatomy, anatomy_of
from worker.engine.device import Device
from worker.engine.significance.base import Material
from worker.engine.significance.elements import Element, group_elements, group_size
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.registry import ESTIMATORS
from worker.engine.significance.report import all_elements
from worker.engine.significance.siblings import sibling_sets

NARROWED = Recipe(
    steps=(
        PruneLayers(layers=(1,)),
        PruneHeads(layer=0, heads=(1, 3)),
        PruneWeightGroups(layer=2, channels=tuple(range(0, 40, 2))),
        HardAttention(layer=3, top_k=3),
    )
)


def material(anatomy: Anatomy, recipe: Recipe, rows: int = 12) -> Material:
    return Material(
        anatomy, anatomy.shape(recipe), ragged(rows), TASK, Device.pick("cpu"), batch_size=5, precision="fp32"
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_every_element_has_a_weight(name: str, family: str) -> None:
    anatomy = anatomy_of(tiny_classifier(family))
    before = logits(anatomy.model, padded_batch(anatomy.model))
    for recipe in (Recipe(), NARROWED):
        given = material(anatomy, recipe)
        weights = ESTIMATORS[name].weigh(given)  # type: ignore[index]
        told = {element.id: weights.of(element) for element in all_elements(given.shape)}
        assert np.isfinite(list(told.values())).all()
        assert len(set(told.values())) > 0.8 * len(told), "elements differ in what they weigh"
        if name != "ablation":
            assert min(told.values()) >= 0.0
        assert given.tally.token_layers > 0
        for layer in (n for n in range(LAYERS) if given.shape.layers[n].channels):
            scores = weights.channel_scores(layer)
            assert scores.shape == (CHANNELS,)
            gone = sorted(set(range(CHANNELS)) - set(given.shape.layers[layer].channels))
            assert not np.any(scores[gone])
            # As narrowing cuts them: also what is left once the first of them is gone.
            groups = group_elements(given.shape, layer, group_size(CHANNELS), scores)
            for group in groups[:1]:
                rest = group_elements(group.removed_from(given.shape), layer, group_size(CHANNELS), scores)
                assert all(np.isfinite(weights.of(each)) for each in (group, *rest[:1]))
    torch.testing.assert_close(logits(anatomy.model, padded_batch(anatomy.model)), before)


@pytest.mark.parametrize("name", NAMES)
def test_what_does_nothing_weighs_least(name: str) -> None:
    anatomy = anatomy_of(tiny_classifier("bert"))
    part = anatomy.parts[2]
    assert part.attention_output is not None
    with torch.no_grad():
        part.attention_output.weight[:, 8:16] = 0.0
    weights = ESTIMATORS[name].weigh(material(anatomy, Recipe(), rows=60))  # type: ignore[index]
    heads = {head: abs(weights.of(Element("head", 2, head))) for head in range(4)}
    assert min(heads, key=lambda head: heads[head]) == 1
    assert heads[1] < 1e-3 * max(heads.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_rows_give_the_same_weights(name: str) -> None:
    anatomy = anatomy_of(tiny_classifier("distilbert"))
    elements = all_elements(anatomy.full_shape())
    one, other = (ESTIMATORS[name].weigh(material(anatomy, Recipe())) for _ in range(2))  # type: ignore[index]
    assert [one.of(element) for element in elements] == [other.of(element) for element in elements]


def test_the_registry_has_what_the_job_language_names() -> None:
    assert tuple(ESTIMATORS) == NAMES
    assert all(estimator.name == name for name, estimator in ESTIMATORS.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_siblings_run_together_as_they_run_alone(family: str) -> None:
    anatomy = anatomy_of(tiny_classifier(family))
    rows, device = ragged(30), Device.pick("cpu")
    for recipe in (Recipe(), NARROWED):
        shape = anatomy.shape(recipe)
        together, alone = (
            PrefixReplay(anatomy, rows, TASK, device, precision="fp32", batch_size=8, base=shape)
            for _ in range(2)
        )
        sets = sibling_sets(all_elements(shape), shape)
        assert family == "albert" or max(map(len, sets)) > 8
        for siblings in sets:
            told = together.losses_without(siblings)
            for element, losses in zip(siblings, told, strict=True):
                np.testing.assert_allclose(losses, alone.losses(element.removed_from(shape)), atol=1e-4)
