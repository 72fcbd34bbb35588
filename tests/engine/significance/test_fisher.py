"""Fisher information against what it estimates, on tiny random models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from worker.engine.anatomy import Anatomy, Shape, anatomy_of
from worker.engine.device import Device
from worker.engine.significance.ablation import Ablation
from worker.engine.significance.base import Material
from worker.engine.significance.elements import (
    Element,
    block_elements,
    group_elements,
    head_elements,
    layer_elements,
)
from worker.engine.significance.fisher import FisherInformation, fisher_information
from worker.engine.tasks import TASKS, Split

TASK = TASKS["text-classification"]
ROWS, LENGTH = 24, 6


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=3,
    )
    return anatomy_of(BertForSequenceClassification(config).eval())


@pytest.fixture(scope="module")
def split() -> Split:
    generator = np.random.default_rng(0)
    return Split(
        ids=generator.integers(1, 40, ROWS * LENGTH),
        offsets=np.arange(0, (ROWS + 1) * LENGTH, LENGTH),
        labels=generator.integers(0, 3, ROWS),
        pad_id=0,
    )


def weighed(anatomy: Anatomy, shape: Shape, split: Split) -> FisherInformation:
    return fisher_information(anatomy, shape, split, TASK, Device.pick("cpu"), batch_size=7)


def losses(anatomy: Anatomy, shape: Shape, split: Split) -> np.ndarray:
    batch = split.batch(np.arange(len(split)))
    with torch.no_grad(), anatomy.masked(shape):
        logits = anatomy.model(**batch.inputs).logits
    return TASK.losses(logits, batch).numpy()


def test_gate_gradients_are_those_of_each_row_alone(anatomy: Anatomy, split: Split) -> None:
    full = anatomy.full_shape()
    together = weighed(anatomy, full, split)
    alone = weighed(anatomy, full, split.select(np.array([5])))
    assert np.abs(together.heads - alone.heads).max(axis=(1, 2)).min() < 1e-2 * np.abs(alone.heads).max()
    assert together.heads.shape == (ROWS, 2, 4)
    assert together.channels.shape == (ROWS, 2, 24)


def test_elements_that_are_gone_weigh_nothing(anatomy: Anatomy, split: Split) -> None:
    full = anatomy.full_shape()
    shape = Element("head", 0, 1).removed_from(Element("ffn", 1).removed_from(full))
    fisher = weighed(anatomy, shape, split)
    assert fisher.of(Element("head", 0, 1)) == 0.0
    assert fisher.of(Element("ffn", 1)) == 0.0
    assert fisher.of(Element("head", 0, 0)) > 0.0


@pytest.mark.parametrize("gone", ["heads", "channels", "both"])
def test_a_model_without_blocks_of_a_kind_can_be_weighed(anatomy: Anatomy, split: Split, gone: str) -> None:
    shape = anatomy.full_shape()
    for index, layer in enumerate(shape.layers):
        heads = () if gone in ("heads", "both") else layer.heads
        channels = () if gone in ("channels", "both") else layer.channels
        shape = shape.with_layer(index, replace(layer, heads=heads, channels=channels))
    fisher = weighed(anatomy, shape, split)
    assert np.any(fisher.heads != 0) == (gone == "channels")
    assert np.any(fisher.channels != 0) == (gone == "heads")


def test_a_group_weighs_as_the_quadratic_form_of_its_gates() -> None:
    generator = np.random.default_rng(1)
    fisher = FisherInformation(generator.random((9, 2, 4)), generator.random((9, 2, 24)))
    group = Element("group", 1, channels=(2, 5, 7))
    gradients = fisher.channels[:, 1, [2, 5, 7]]
    matrix = gradients.T @ gradients / 9
    assert fisher.of(group) == pytest.approx(0.5 * matrix.sum())
    assert fisher.channel_scores(1)[5] == pytest.approx(0.5 * matrix[1, 1])


def test_exact_ablation_is_the_measured_change(anatomy: Anatomy, split: Split) -> None:
    full = anatomy.full_shape()
    elements = [*layer_elements(full), *block_elements(full), *head_elements(full, 0)]
    ablated = Ablation().weigh(Material(anatomy, full, split, TASK, Device.pick("cpu"), precision="fp32"))
    base = losses(anatomy, full, split).mean()
    changes = [ablated.of(element) for element in elements]
    for element, change in zip(elements, changes, strict=True):
        without = losses(anatomy, element.removed_from(full), split).mean()
        assert change == pytest.approx(without - base, abs=1e-6)
    assert any(change != 0 for change in changes)


def test_groups_of_a_ranking_take_the_least_significant_channels_first(anatomy: Anatomy) -> None:
    ranking = np.arange(24)[::-1].astype(float)
    groups = group_elements(anatomy.full_shape(), 0, 10, ranking)
    assert groups[0].channels == tuple(range(14, 24))
    assert [len(group.channels) for group in groups] == [10, 10, 4]


def test_every_element_has_a_name_of_its_own(anatomy: Anatomy) -> None:
    from worker.engine.significance.report import all_elements

    elements = all_elements(anatomy.full_shape())
    assert len({element.id for element in elements}) == len(elements)
    for element in elements:
        shape = anatomy.shape(_recipe(element))
        assert shape == element.removed_from(anatomy.full_shape()).normalised()


def _recipe(element: Element):  # type: ignore[no-untyped-def]
    from models.spec import Recipe

    return Recipe(steps=(element.step(),))
