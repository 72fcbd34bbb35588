"""Races decide as whole judgements do, on less; and on a real model's losses they keep their error rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.engine.export_models import tiny_classifier
from tests.engine.significance.test_estimators import TASK, ragged
from tests.engine.strategies.problems import milliseconds, problem
from worker.engine.anatomy import Anatomy, Shape, anatomy_of
from worker.engine.device import Device
from worker.engine.significance.report import all_elements
from worker.engine.significance.sequential import SumBelowZero, looking_order
from worker.engine.stages.racing import Race
from worker.engine.strategies.accuracy_driven import accuracy_driven
from worker.engine.strategies.base import Abandoned, Bar, Judgement
from worker.engine.strategies.goal import CostModel
from worker.engine.tasks import Split, evaluate

ROWS = 240
WRONG = 0.1  # of the labels: as a trained classifier has it, the model is right about the others
ORDERS = 200
RATE = 0.1
DEVICE = Device.pick("cpu")


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return anatomy_of(tiny_classifier("bert"))


@pytest.fixture(scope="module")
def rows(anatomy: Anatomy) -> Split:
    split = ragged(ROWS)
    answers = evaluate(anatomy.model, split, TASK, batch_size=64, device=DEVICE).logits.argmax(1)
    generator = np.random.default_rng(0)
    labels = np.where(generator.random(ROWS) < WRONG, generator.integers(0, 3, ROWS), answers)
    return replace(split, labels=labels)


def race(anatomy: Anatomy, rows: Split, error_rate: float) -> Race:
    start = anatomy.full_shape()
    return Race(anatomy, rows, TASK, DEVICE, start=start, metric="accuracy", error_rate=error_rate, seed=0)


def whole(anatomy: Anatomy, rows: Split, shape: Shape) -> np.ndarray:
    with anatomy.masked(shape):
        return evaluate(anatomy.model, rows, TASK, batch_size=128, device=DEVICE).losses


def test_a_judgement_is_that_of_all_rows(anatomy: Anatomy, rows: Split) -> None:
    full = anatomy.full_shape()
    judging, elements = race(anatomy, rows, 0.0), all_elements(full)
    two = elements[-1].removed_from(elements[6].removed_from(full))
    for shape in (full, elements[0].removed_from(full), two):
        judged = judging.judge(shape)
        np.testing.assert_allclose(judged.losses, whole(anatomy, rows, shape), atol=1e-4)
        assert judged.loss == pytest.approx(float(judged.losses.mean(dtype=np.float64)))


def test_rivals_follow_each_other(anatomy: Anatomy, rows: Split) -> None:
    """What is kept of the recipe so far is that of the one asked for last."""
    rival = anatomy.full_shape()
    judging, elements = race(anatomy, rows, 0.0), all_elements(rival)
    for element in (elements[-1], elements[30], elements[2]):
        changed = element.removed_from(rival)
        contested = judging.contest(rival, changed, Bar(1000.0, guarded=False))
        assert isinstance(contested, Judgement)
        np.testing.assert_allclose(contested.losses, whole(anatomy, rows, changed), atol=1e-4)
        rival = changed


def test_what_was_accepted_is_not_computed_again(anatomy: Anatomy, rows: Split) -> None:
    full = anatomy.full_shape()
    judging, elements = race(anatomy, rows, 0.0), all_elements(full)
    bar = Bar(1000.0, guarded=False)
    # A block that is gone, and a layer before it, whose end is kept from the layer before.
    accepted = elements[-1].removed_from(elements[2].removed_from(full))
    judging.contest(full, accepted, bar)
    before = judging.tally.token_layers
    last = elements[3].removed_from(accepted)
    contested = judging.contest(accepted, last, bar)
    assert isinstance(contested, Judgement)
    assert judging.tally.token_layers - before <= int(rows.lengths.sum())
    np.testing.assert_allclose(contested.losses, whole(anatomy, rows, last), atol=1e-4)


@pytest.mark.parametrize("error_rate", [0.0, 0.01])
def test_the_search_decides_as_without_races_and_computes_less(
    anatomy: Anatomy, rows: Split, error_rate: float
) -> None:
    judging = race(anatomy, rows, error_rate)
    # Hard attention is left out: in short rows it changes nothing, and rounding would decide.
    plain = replace(
        problem(lambda shape: whole(anatomy, rows, shape)),
        anatomy=anatomy,
        costs=CostModel(milliseconds, anatomy.parameters, 1e6, 1, 0.0),
        allowed=frozenset({"prune_blocks", "prune_heads", "prune_weight_groups"}),
    )
    raced = replace(plain, judge=judging.judge, contest=judging.contest)
    slow, fast = list(accuracy_driven(plain, None)), list(accuracy_driven(raced, None))
    assert [step.candidate.recipe for step in fast] == [step.candidate.recipe for step in slow]
    assert [step.candidate.accepted for step in fast] == [step.candidate.accepted for step in slow]
    # Each change, and the start, by a whole pass: 1.28 and 1.44 times what races take on these few changes.
    plainly = int(rows.lengths.sum()) * anatomy.layers * (len(slow) + 1)
    assert judging.tally.token_layers < 0.8 * plainly


def test_a_hopeless_change_is_given_up(anatomy: Anatomy, rows: Split) -> None:
    full = anatomy.full_shape()
    losses = {element: whole(anatomy, rows, element.removed_from(full)) for element in all_elements(full)}
    worst = max(losses, key=lambda element: float(losses[element].mean()))
    told = race(anatomy, rows, 0.01).contest(full, worst.removed_from(full), Bar(1.0, guarded=True))
    assert isinstance(told, Abandoned)
    assert told.seen <= told.rows / 2
    assert told.rows == ROWS


def test_on_real_losses_wanted_changes_are_given_up_no_more_often_than_the_rate(
    anatomy: Anatomy, rows: Split
) -> None:
    full = anatomy.full_shape()
    before = whole(anatomy, rows, full).astype(np.float64)
    changes = [whole(anatomy, rows, element.removed_from(full)) - before for element in all_elements(full)]
    wanted = [change for change in changes if change.sum() < 0]
    # Of those that are not wanted, what would just be: shifted down until the sum is below zero.
    shifted = [np.maximum(change - change.mean() - 1e-4, -before) for change in changes]
    wanted += [change for change in shifted if change.sum() < 0]
    wanted = wanted[:20]
    assert len(wanted) > 8
    wrong = np.zeros(len(wanted))
    for seed in range(ORDERS):
        order, fixed = looking_order(before, hardest=0.125, seed=seed)
        for number, change in enumerate(wanted):
            wrong[number] += SumBelowZero(-before[order], fixed=fixed, error_rate=RATE).add(change[order])
    assert wrong.max() / ORDERS <= RATE + 3 * np.sqrt(RATE * (1 - RATE) / ORDERS)
