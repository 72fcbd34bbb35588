from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from models.spec import JobSpec, PruneHeads, PruneLayers, Recipe
from worker.engine.run import Run
from worker.engine.stages import sizing
from worker.engine.stages.sizing import SHARE_OF_TIME, TURNS, Sized, brought_to, granted_ms, sized
from worker.engine.stages.timing import ReferenceTimes
from worker.engine.strategies.goal import MARGIN, Costs, DenseReference, Goal


def recipe(removals: int) -> Recipe:
    """A dropped layer, and then so many heads."""
    return Recipe(
        steps=(PruneLayers(layers=(1,)), *(PruneHeads(layer=0, heads=(n,)) for n in range(removals)))
    )


def removals(tried: Recipe) -> int:
    return len(tried.steps) - 1


def test_a_file_that_fits_is_left_alone() -> None:
    timed: list[Recipe] = []

    def clock(tried: Recipe, turn: int) -> float:
        timed.append(tried)
        return 0.97

    assert brought_to(1.0, recipe(3), clock, lambda tried, ms: recipe(9)) == recipe(3)
    assert timed == [recipe(3)]


def test_too_slow_and_too_fast_files_are_corrected_until_they_fit() -> None:
    def clock(tried: Recipe, turn: int) -> float:
        return 1.3 - 0.05 * removals(tried)  # fits with 6 or 7 removals

    def corrected(tried: Recipe, ms: float) -> Recipe:
        return recipe(removals(tried) + (4 if ms > 1.0 else -1))

    assert removals(brought_to(1.0, recipe(4), clock, corrected)) == 7
    assert removals(brought_to(1.0, recipe(2), clock, corrected)) == 6
    assert removals(brought_to(1.0, recipe(8), clock, corrected)) == 7


def test_nothing_more_goes_because_of_a_disturbance() -> None:
    clock = iter([1.4, 0.98])
    tried = brought_to(1.0, recipe(3), lambda tried, turn: next(clock), lambda tried, ms: recipe(9))
    assert tried == recipe(3)


def test_no_more_is_kept_because_of_a_disturbance() -> None:
    clock = iter([0.6, 1.01])
    tried = brought_to(1.0, recipe(3), lambda tried, turn: next(clock), lambda tried, ms: recipe(0))
    assert tried == recipe(3)


@pytest.mark.parametrize(
    ("predicted", "measured", "granted"),
    [
        (1.0, 1.0, 1.2),  # as predicted: what is aimed at may be predicted
        (1.0, 0.8, 1.0 + 1.0 * 0.4 / 1.2),
        (1.0, 0.1, 1.0 + 1.0 * 1.1 / 1.9),  # however fast it seemed, less than the whole model takes
        (1.0, 1.2, 1.0),
        (1.0, 2.5, 1.0),
    ],
)
def test_what_may_be_kept_lies_between_what_was_timed_and_the_whole_model(
    predicted: float, measured: float, granted: float
) -> None:
    assert granted_ms(predicted, measured, aim=1.2, whole=2.0) == pytest.approx(granted)


def test_sizing_ends_when_nothing_changes_or_the_turns_are_used_up() -> None:
    turns: list[int] = []

    def slow(tried: Recipe, turn: int) -> float:
        turns.append(turn)
        return 2.0

    assert brought_to(1.0, recipe(2), slow, lambda tried, ms: tried) == recipe(2)
    assert turns == [0, 0]
    assert brought_to(1.0, recipe(0), slow, lambda tried, ms: recipe(removals(tried) + 1)) == recipe(TURNS)


def test_without_time_for_another_timing_the_last_correction_holds() -> None:
    def once(tried: Recipe, turn: int) -> float | None:
        return None if turn else 0.5

    assert removals(brought_to(1.0, recipe(6), once, lambda tried, ms: recipe(2))) == 2


LEFT = 200.0
SECONDS = 15.0  # that a timing takes: a slow machine's, two of which are more than sizing's share
AIM = 1.0 / (1 + MARGIN)


class Machine:
    """A run on a machine whose clock goes on with each timing; a head is predicted to take a tenth."""

    def __init__(self, *measured: float) -> None:
        self.measured = list(measured)
        self.timed: list[int] = []
        self.clock = SimpleNamespace(used=300.0, left=LEFT)
        document = {
            "base_model": {"path": "m"},
            "dataset": {"path": "d"},
            "constraints": {"speed": {"min_speedup": 3.0}},
        }
        self.run = cast(
            Run,
            SimpleNamespace(spec=JobSpec.model_validate(document), stopwatch=self.clock, shape=removals),
        )

    def time(self, tried: Recipe) -> float:
        self.clock.used += SECONDS
        self.timed.append(removals(tried))
        return self.measured.pop(0) * AIM


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    def made(*measured: float) -> Machine:
        machine = Machine(*measured)
        monkeypatch.setattr(sizing, "_timer", lambda run, folder: machine.time)
        monkeypatch.setattr(sizing, "cost_model", lambda run: lambda gone: Costs(2.0 - 0.1 * gone, 1.0))
        monkeypatch.setattr(sizing, "dense_reference", lambda run: DenseReference(3.0, 4, 1))
        monkeypatch.setattr(sizing, "reference_times", lambda run: ReferenceTimes(3.0, whole=2.0))
        monkeypatch.setattr(sizing, "_narrowed", _by_costs)
        monkeypatch.setattr(sizing, "widened", _by_costs)
        return machine

    assert SECONDS < SHARE_OF_TIME * LEFT < 2 * SECONDS
    return made


def _by_costs(run: Run, tried: Recipe, goal: Goal, tell: object = None) -> Recipe:
    """As few removals as the goal allows."""
    return next(recipe(n) for n in range(20) if (2.0 - 0.1 * n) <= (goal.ms or 0.0) + 1e-9)


def test_what_was_narrowed_is_timed_without_time_left_and_given_back(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    # Disturbed twice, ten removals seem 30 % too slow; thirteen turn out a quarter too fast.
    slow = machine(1.3, 1.3, 0.75)
    fitting = sized(slow.run, recipe(10), tmp_path, lambda *told: None)
    assert slow.timed[:2] == [10, 10]
    assert len(slow.timed) == 3
    assert removals(fitting.recipe) < slow.timed[2]
    assert fitting.timing_seconds == SECONDS


def test_what_was_widened_is_not_timed_without_time_left(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    fast = machine(0.8)
    fast.clock.left = SECONDS / SHARE_OF_TIME / 2
    fitting = sized(fast.run, recipe(12), tmp_path, lambda *told: None)
    assert fast.timed == [12]
    assert removals(fitting.recipe) < 12


def test_without_a_bound_on_speed_nothing_is_timed(machine: Callable[..., Machine], tmp_path: Path) -> None:
    free = machine()
    free.run.spec = free.run.spec.model_copy(update={"constraints": type(free.run.spec.constraints)()})
    assert sized(free.run, recipe(3), tmp_path, lambda *told: None) == Sized(recipe(3))
