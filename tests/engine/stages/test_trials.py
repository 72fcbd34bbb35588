"""How a recipe's trial ends does not depend on who trains it, nor on what was trained before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from models.spec import PruneHeads, PruneLayers, PruneWeightGroups, Recipe
from tests.engine.runs import Recorder
from tests.engine.stages.crews import Split, as_given, helper_of, spec_of
from worker.engine.crew import Alone, Crew
from worker.engine.errors import Stopped
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.sharing import UnlikeMachine
from worker.engine.stages.trials import Trials
from worker.engine.strategies.base import Score

MINUTES = 20.0  # enough that no trial of a tiny model is cut short
RECIPES = (
    Recipe(steps=(PruneLayers(layers=(1,)),)),
    Recipe(steps=(PruneHeads(layer=0, heads=(0,)),)),
    Recipe(steps=(PruneWeightGroups(layer=1, channels=tuple(range(8))),)),
)


@pytest.fixture
def finished(finished: Path, tmp_path: Path) -> Path:
    """The run's files for a job with more time."""
    ignored = shutil.ignore_patterns("run.json")
    return Path(shutil.copytree(finished, tmp_path / "roomy", ignore=ignored))


def scores(
    sources: dict[str, Any], folder: Path, crew: Crew, reporter: Recorder | None = None
) -> list[Score]:
    run = Run(spec_of(sources, 2, MINUTES), folder, reporter or SilentReporter(), crew)
    return Trials(run).scores(RECIPES)


def test_the_scores_are_the_same_to_the_last_bit(
    sources: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    one = scores(sources, finished, Alone())
    recorder = Recorder()
    split = Split(helper_of(spec_of(sources, 2, MINUTES), finished, tmp_path / "helper", "search"))
    assert scores(sources, finished, split, recorder) == one
    assert recorder.events == ["search.shared"]
    assert len({score.loss for score in one}) == len(RECIPES)
    alone = [
        Trials(Run(spec_of(sources, 1, MINUTES), finished, SilentReporter())).scores([recipe])
        for recipe in RECIPES
    ]
    assert [score for [score] in alone] == one


def test_a_helper_gets_the_training_rows_and_never_the_holdout(
    sources: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    run = Run(spec_of(sources, 2, MINUTES), finished, SilentReporter())
    first = as_given(run, Trials(run).shares(RECIPES)[0])
    helper_of(run.spec, finished, tmp_path / "helper", "search")(first)
    assert {path.name for path in (tmp_path / "helper").rglob("*.parquet")} == {
        "train.parquet",
        "selection.parquet",
    }
    elsewhere = first | {"machine": first["machine"] | {"processor": "another"}}
    with pytest.raises(UnlikeMachine):
        helper_of(run.spec, finished, tmp_path / "helper", "search")(elsewhere)


def test_the_shares_are_the_same_whenever_they_are_asked_for(sources: dict[str, Any], finished: Path) -> None:
    """So that an attempt that goes on elsewhere finds what helpers did for the one before."""
    run = Run(spec_of(sources, 2, MINUTES), finished, SilentReporter())
    before = Trials(run).shares(RECIPES)
    later = Run(spec_of(sources, 2, MINUTES), finished, SilentReporter())
    assert later.stopwatch.left < MINUTES * 60
    assert Trials(later).shares(RECIPES) == before


def test_a_trial_can_be_stopped(sources: dict[str, Any], finished: Path) -> None:
    with pytest.raises(Stopped):
        scores(sources, finished, Alone(), Recorder(stop_after=3))
