"""A grafted model with what only it has removed again computes what the narrow one does."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.export_models import logits, padded_batch, tiny_classifier
from worker.engine.anatomy import LayerShape, Shape, anatomy_of
from worker.engine.anatomy.grafting import grafted
from worker.engine.anatomy.slicing import sliced

NARROW = ((0, 2), tuple(range(0, 20, 2)))
"""Heads and channels of the layers that the narrow model has."""


def shape(full: Shape, kept: dict[int, tuple[tuple[int, ...], tuple[int, ...]]]) -> Shape:
    gone = LayerShape((), (), present=False)
    layers = [LayerShape(*kept[index]) if index in kept else gone for index in range(len(full.layers))]
    return Shape(tuple(layers), shares=full.shares)


def changed(model: PreTrainedModel) -> PreTrainedModel:
    """The model after some training: every weight is another one."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert", "deberta-v2"])
def test_what_is_narrow_stays_what_it_learnt(architecture: str) -> None:
    dense = tiny_classifier(architecture).eval()
    full = anatomy_of(dense).full_shape()
    whole = (full.layers[0].heads, full.layers[0].channels)
    narrow_shape = shape(full, {0: NARROW})
    narrow = changed(sliced(dense, narrow_shape)).eval()
    wide = grafted(dense, shape(full, {0: whole, 1: whole}), narrow).eval()
    batch = padded_batch(dense)
    assert not torch.allclose(logits(wide, batch), logits(narrow, batch), atol=1e-3)
    back = sliced(wide, narrow_shape).eval()
    torch.testing.assert_close(logits(back, batch), logits(narrow, batch), atol=1e-5, rtol=0)
    # What was given back has the dense model's weights.
    given, held = anatomy_of(wide).parts[1], anatomy_of(dense).parts[1]
    torch.testing.assert_close(given.by_head["query"].weight, held.by_head["query"].weight)


def test_only_a_part_can_be_grafted() -> None:
    dense = tiny_classifier("bert").eval()
    full = anatomy_of(dense).full_shape()
    narrow = sliced(dense, shape(full, {1: NARROW}))
    with pytest.raises(ValueError, match="part of the model"):
        grafted(dense, shape(full, {0: NARROW}), narrow)
