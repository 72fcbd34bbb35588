"""What an element weighs does not depend on who weighs it, nor on what is weighed with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from models.spec import JobSpec
from tests.engine.runs import Recorder, tiny_sources, tiny_spec
from worker.engine.crew import Alone, Crew, Outcome, Outcomes, Share
from worker.engine.errors import Stopped
from worker.engine.reporting import SilentReporter, Stage
from worker.engine.run import Run
from worker.engine.stages import weighing
from worker.engine.stages.baseline import baseline
from worker.engine.stages.helping import SHARED
from worker.engine.stages.prepare import prepare
from worker.engine.stages.weighing import UnlikeMachine, Weighing

ROWS = 40


class Split:
    """A crew of several processes' worth: every other share is done by a helper with files of its own."""

    def __init__(self, helper: Callable[[Share], Callable[[Share], Outcome]]) -> None:
        self._helper = helper

    def share(
        self,
        stage: Stage,
        shares: Sequence[Share],
        work: Callable[[Share], Outcome],
        told: Callable[[int], None],
    ) -> Outcomes:
        shares = json.loads(json.dumps(shares))  # as the database hands them on
        theirs = self._helper(shares[0])
        values = []
        for number, share in enumerate(shares):
            outcome = theirs(share) if number % 2 else work(share)
            if number % 2:
                told(number)
            values.append(json.loads(json.dumps(outcome)))
        return Outcomes(tuple(values), len(shares) // 2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def finished(sources: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose baseline is done."""
    folder = tmp_path_factory.mktemp("run")
    run = Run(spec_of(sources, 1), folder, SilentReporter())
    run.workspace.finish("prepare", prepare(run))
    run.workspace.finish("baseline", baseline(run))
    return folder


def spec_of(sources: dict[str, Any], workers: int) -> JobSpec:
    return tiny_spec(sources, budget={"max_minutes": 0.2, "max_workers": workers})


def weighed(
    sources: dict[str, Any], folder: Path, workers: int, crew: Crew, reporter: Recorder | None = None
) -> dict[str, float]:
    return Weighing(Run(spec_of(sources, workers), folder, reporter or SilentReporter(), crew), ROWS).shared()


def helper_of(
    sources: dict[str, Any], finished: Path, folder: Path
) -> Callable[[Share], Callable[[Share], Outcome]]:
    """A helper that has the needed files only, in a folder of its own."""

    def helper(first: Share) -> Callable[[Share], Outcome]:
        for path in finished.rglob("*"):
            name = path.relative_to(finished).as_posix()
            if path.is_file() and SHARED["analyse"].needed(name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / name)
        return SHARED["analyse"].helper(spec_of(sources, 3), folder, SilentReporter(), first)

    return helper


def test_the_losses_are_the_same_to_the_last_bit(
    sources: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    one = weighed(sources, finished, 1, Alone())
    recorder = Recorder()
    split = Split(helper_of(sources, finished, tmp_path))
    assert weighed(sources, finished, 3, split, recorder) == one
    assert weighed(sources, finished, 2, Alone()) == one
    assert list(weighed(sources, finished, 64, Alone()).items()) == list(one.items())
    assert recorder.events == ["analyse.shared"]
    assert len(set(one.values())) > len(one) // 2  # they do differ from element to element


def test_a_helper_never_gets_the_holdout(sources: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    [first, *_] = Weighing(Run(spec_of(sources, 2), finished, SilentReporter()), ROWS).shares()
    helper_of(sources, finished, tmp_path)(first)
    assert (finished / "prepare" / "data" / "holdout.parquet").exists()
    assert {path.name for path in tmp_path.rglob("*.parquet")} == {"selection.parquet"}


def test_one_worker_has_one_share(sources: dict[str, Any], finished: Path) -> None:
    run = Run(spec_of(sources, 1), finished, SilentReporter())
    assert len(Weighing(run, ROWS).shares()) == 1


def test_every_element_is_in_one_share(sources: dict[str, Any], finished: Path) -> None:
    for workers in (2, 3, 64):
        shares = Weighing(Run(spec_of(sources, workers), finished, SilentReporter()), ROWS).shares()
        names = [name for share in shares for name in share["elements"]]
        assert len(names) == len(set(names))
        assert len(shares) == min(len(names), 4 * workers)


def test_a_helper_on_another_kind_of_machine_declines(
    sources: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    [first, *_] = Weighing(Run(spec_of(sources, 2), finished, SilentReporter()), ROWS).shares()
    elsewhere = first | {"machine": first["machine"] | {"processor": "another"}}
    with pytest.raises(UnlikeMachine):
        helper_of(sources, finished, tmp_path)(elsewhere)
    work = helper_of(sources, finished, tmp_path)(first)
    with pytest.raises(UnlikeMachine):
        work(elsewhere)


def test_a_helper_takes_as_many_threads_as_the_run(
    sources: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    [first, *_] = Weighing(Run(spec_of(sources, 2), finished, SilentReporter()), ROWS).shares()
    try:
        torch.set_num_threads(before + 1)
        helper_of(sources, finished, tmp_path)(first)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_losses_that_are_no_numbers_pass(
    sources: dict[str, Any], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        weighing, "losses_without", lambda elements, *_, **__: {e.id: float("nan") for e in elements}
    )
    without = weighed(sources, finished, 2, Alone())
    assert all(loss != loss for loss in without.values())


def test_weighing_can_be_stopped_between_elements(sources: dict[str, Any], finished: Path) -> None:
    recorder = Recorder(stop_after=5)
    with pytest.raises(Stopped):
        weighed(sources, finished, 2, Alone(), recorder)
    assert recorder.checks == 6
