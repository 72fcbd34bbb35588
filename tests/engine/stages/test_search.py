"""What the stage tells of bounds beyond what its search has come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.spec import JobSpec, Recipe
from tests.engine.strategies.problems import flat, problem
from worker.engine.run import Run
from worker.engine.stages import search as stage
from worker.engine.strategies.goal import Goal


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The stage's result for a speedup of the tests' problem, from so many candidates."""

    def result(speedup: float, max_candidates: int) -> dict[str, Any]:
        document = {
            "base_model": {"path": "m"},
            "dataset": {"path": "d"},
            "constraints": {"speed": {"min_speedup": speedup}},
            "recovery": "off",
        }
        spec = JobSpec.model_validate(document)
        made = problem(flat, max_candidates=max_candidates)
        made = replace(made, goal=Goal.of(spec.constraints, made.dense, margin=0.1))
        monkeypatch.setattr(stage, "search_problem", lambda *given, **named: made)
        monkeypatch.setattr(stage, "dense_reference", lambda run: made.dense)
        monkeypatch.setattr(stage, "vocabulary_recipe", lambda run: Recipe())
        run = SimpleNamespace(
            spec=spec,
            asked=spec,
            learns=False,
            anatomy=made.anatomy,
            workspace=SimpleNamespace(folder=lambda name: tmp_path, result=lambda name: {"candidates": 3}),
            reporter=SimpleNamespace(candidate=lambda candidate: None),
            stopwatch=SimpleNamespace(save=lambda: None),
            progress=lambda *told: None,
            shape=made.anatomy.shape,
        )
        (tmp_path / "state.json").unlink(missing_ok=True)
        return stage.search(cast(Run, run))

    return result


def test_a_search_that_ended_early_proves_nothing(searched: Any) -> None:
    cut_short = searched(2.5, max_candidates=1)
    assert not cut_short["proved_infeasible"]
    assert cut_short["utmost"]["speedup"] > 2.5
    assert cut_short["candidates"] == 4


def test_what_even_nothing_at_all_would_not_reach_is_infeasible(searched: Any) -> None:
    assert searched(100.0, max_candidates=1000)["proved_infeasible"]
    assert not searched(2.0, max_candidates=1000)["proved_infeasible"]
