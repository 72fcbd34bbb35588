from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.spec import JobSpec
from worker.engine.run import Run
from worker.engine.stages.baseline import cut_short, learnt_nothing
from worker.engine.stages.problem import compared_rows, raced_rows
from worker.engine.stages.timetable import DONE_BY, LEAST_SECONDS, RECOVERY_SHARE, seconds_for
from worker.engine.training import FitResult


def run_of(used: float, **spec: Any) -> Run:
    document = {"base_model": {"path": "m"}, "dataset": {"path": "d"}, "budget": {"max_minutes": 10}, **spec}
    stopwatch = SimpleNamespace(used=used)
    return cast(Run, SimpleNamespace(spec=JobSpec.model_validate(document), stopwatch=stopwatch))


def test_the_stages_before_leave_recovery_its_share() -> None:
    assert list(DONE_BY.values()) == sorted(DONE_BY.values())
    assert DONE_BY["search"] + RECOVERY_SHARE <= 0.95  # the rest is for export and certificate


def test_a_stage_gets_what_is_left_until_it_is_to_be_done() -> None:
    assert seconds_for(run_of(60.0), "baseline") == pytest.approx(600 * DONE_BY["baseline"] - 60)
    assert seconds_for(run_of(599.0), "baseline") == LEAST_SECONDS


def test_without_recovery_its_share_goes_to_the_others() -> None:
    without = seconds_for(run_of(0.0, recovery="off"), "search")
    assert without == pytest.approx(600 * (DONE_BY["search"] + RECOVERY_SHARE))


def test_training_that_the_budget_ended_is_told() -> None:
    told: list[str] = []
    reporter = SimpleNamespace(event=lambda type, message, **data: told.append(type))
    run = cast(Run, SimpleNamespace(reporter=reporter))
    whole = FitResult(0.9, 0.3, 4, 4, 800, 90.0, "epochs", 1e-4)
    assert cut_short(run, None) is None
    assert cut_short(run, whole) is None
    assert "after 20 steps" in (cut_short(run, replace(whole, steps=20, stopped_by="time")) or "")
    assert told == ["baseline.cut_short"]


@pytest.mark.parametrize(
    ("metric", "score", "told"),
    [
        ("f1", 0.0, True),
        ("f1", 0.01, False),
        ("matthews_correlation", -0.02, True),
        ("perplexity", -90.0, False),
    ],
)
def test_a_dense_model_that_learnt_nothing_is_told(metric: str, score: float, told: bool) -> None:
    run = cast(Run, SimpleNamespace(spec=SimpleNamespace(metric=metric)))
    assert (learnt_nothing(run, score) is not None) == told


@pytest.mark.parametrize(
    ("row_seconds", "train", "rows"),
    [
        (0.001, 1_000_000, 256),  # 256 rows take 25.6 s of the 30
        (0.002, 1_000_000, 128),
        (0.001, 5_000, 64),  # 0.7 epochs are 10,500 forward passes: 105 rows, of a hundred each
        (0.001, 50, 64),  # never fewer
    ],
)
def test_rows_are_as_many_as_budget_and_training_allow(row_seconds: float, train: int, rows: int) -> None:
    run = run_of(0.0)
    workspace = SimpleNamespace(result=lambda stage: {"row_seconds": row_seconds})
    told = cast(Run, SimpleNamespace(spec=run.spec, workspace=workspace, train=range(train)))
    assert compared_rows(told, 100, 0.05, (256, 128, 64), epochs=0.7) == rows
    assert compared_rows(told, 100, 0.05, (256, 128, 64)) >= rows


@pytest.mark.parametrize(
    ("row_seconds", "selection", "rows"),
    [
        (0.0005, 1283, 1283),  # 100 passes take 64 s of the 120
        (0.002, 1283, 512),  # 600 rows would take all of them
        (0.002, 200, 200),
        (0.1, 1283, 128),  # never fewer
    ],
)
def test_races_look_at_all_rows_or_at_what_the_time_allows(
    row_seconds: float, selection: int, rows: int
) -> None:
    run = run_of(0.0)
    workspace = SimpleNamespace(result=lambda stage: {"row_seconds": row_seconds})
    told = cast(Run, SimpleNamespace(spec=run.spec, workspace=workspace, selection=range(selection)))
    assert raced_rows(told, 100) == rows
    assert raced_rows(told, 10**6) >= 128  # no more changes than the job allows candidates


def test_training_masks_gets_a_part_of_recovery() -> None:
    bounded = {"constraints": {"speed": {"min_speedup": 2.0}}}
    usual = seconds_for(run_of(0.0, **bounded), "search")
    for strategy, least in (("vtrans", 0.2), ("fast-vtrans", 0.1), ("faster-vtrans", 0.1)):
        more = seconds_for(run_of(0.0, strategy=strategy, **bounded), "search") - usual
        assert least * 600 <= round(more, 6) <= RECOVERY_SHARE / 2 * 600
    # Without recovery that part is there already, and no stage gets more than all that there is.
    off = run_of(0.0, strategy="faster-vtrans", recovery="off", **bounded)
    assert seconds_for(off, "search") == pytest.approx(600 * (DONE_BY["search"] + RECOVERY_SHARE))
