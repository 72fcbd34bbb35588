"""How the seconds that are left are shared among trials and rungs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from models.spec import JobSpec
from worker.engine.run import Run
from worker.engine.stages.fitting import (
    FIRST_RECOVERY_SHARE,
    RECOVERY_SHARE,
    TRIAL_SHARE,
    first_recovery_seconds,
    recovery_seconds,
    trial_seconds,
)
from worker.engine.stages.timetable import DONE_BY

MINUTES = 10.0


def run_with(left: float) -> Run:
    document = {"base_model": {"path": "m"}, "dataset": {"path": "d"}, "budget": {"max_minutes": MINUTES}}
    stopwatch = SimpleNamespace(left=left, used=MINUTES * 60 - left)
    return cast(Run, SimpleNamespace(spec=JobSpec.model_validate(document), stopwatch=stopwatch))


def test_the_first_rung_leaves_time_for_another_that_can_mend_it() -> None:
    assert first_recovery_seconds(run_with(300.0), 70.0, 25.0) == pytest.approx(230 * FIRST_RECOVERY_SHARE)


def test_time_too_short_for_another_rung_is_the_first_one_s() -> None:
    # Of 70 seconds 24 would be left: no more than measuring another one takes.
    assert first_recovery_seconds(run_with(140.0), 70.0, 25.0) == pytest.approx(70 * RECOVERY_SHARE)
    assert first_recovery_seconds(run_with(300.0), 120.0, 60.0) == pytest.approx(180 * RECOVERY_SHARE)
    assert recovery_seconds(run_with(300.0), 70.0) == pytest.approx(230 * RECOVERY_SHARE)


def test_trials_of_a_search_that_is_late_are_half_as_long() -> None:
    usual = TRIAL_SHARE * MINUTES * 60
    before, after = DONE_BY["search"] - 0.05, DONE_BY["search"] + 0.05
    assert trial_seconds(run_with((1 - before) * MINUTES * 60)) == pytest.approx(usual)
    assert trial_seconds(run_with((1 - after) * MINUTES * 60)) == pytest.approx(usual / 2)
    assert trial_seconds(run_with(20.0)) == pytest.approx(2.0)
