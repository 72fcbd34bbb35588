"""The temperature at which a model is as sure as it is right, and what losses are at it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.engine.export_models import tiny_classifier
from tests.engine.significance.test_estimators import TASK, ragged
from worker.engine.anatomy import Anatomy, anatomy_of
from worker.engine.device import Device
from worker.engine.significance.calibration import temperature
from worker.engine.significance.elements import layer_elements
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.report import all_elements
from worker.engine.significance.siblings import sibling_sets
from worker.engine.tasks import TASKS, Split, evaluate

DEVICE = Device.pick("cpu")
ROWS = 600


@pytest.fixture
def anatomy() -> Anatomy:
    return anatomy_of(tiny_classifier("bert"))


def drawn(anatomy: Anatomy) -> Split:
    """Rows whose labels are drawn by the model's own probabilities: it is right about itself."""
    split = ragged(ROWS)
    surer(anatomy, 1.5 / float(evaluate(anatomy.model, split, TASK, device=DEVICE).logits.std(axis=0).mean()))
    logits = evaluate(anatomy.model, split, TASK, device=DEVICE).logits.astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    generator = np.random.default_rng(0)
    labels = np.array([generator.choice(len(each), p=each) for each in chances])
    return replace(split, labels=labels)


def surer(anatomy: Anatomy, times: float) -> None:
    head = anatomy.model.classifier
    with torch.no_grad():
        head.weight.mul_(times)
        head.bias.mul_(times)


@pytest.mark.parametrize("times", [0.5, 3.0, 8.0])
def test_it_is_by_how_much_the_model_is_too_sure(anatomy: Anatomy, times: float) -> None:
    split = drawn(anatomy)
    right = temperature(anatomy.model, split, TASK, device=DEVICE)
    assert right == pytest.approx(1.0, abs=0.3)
    surer(anatomy, times)
    assert temperature(anatomy.model, split, TASK, device=DEVICE) == pytest.approx(times * right, rel=1e-3)


def test_losses_at_the_temperature_do_not_depend_on_how_sure_the_model_is(anatomy: Anatomy) -> None:
    split, full = drawn(anatomy), anatomy.full_shape()
    elements = all_elements(full)

    def losses() -> list[np.ndarray]:
        found = temperature(anatomy.model, split, TASK, device=DEVICE)
        replay = PrefixReplay(anatomy, split, TASK, DEVICE, precision="fp32", temperature=found)
        together = next(each for each in sibling_sets(elements, full) if len(each) > 1)
        return [replay.losses(layer_elements(full)[0].removed_from(full)), *replay.losses_without(together)]

    before = losses()
    surer(anatomy, 5.0)
    for told, anew in zip(before, losses(), strict=True):
        np.testing.assert_allclose(anew, told, rtol=1e-3, atol=1e-4)


def test_scores_have_none() -> None:
    anatomy = anatomy_of(tiny_classifier("bert"))
    assert temperature(anatomy.model, ragged(8), TASKS["regression"], device=DEVICE) == 1.0
