"""What an element weighs does not depend on who weighs it, nor on what is weighed with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.runs import Recorder
from tests.engine.stages.crews import Split, as_given, helper_of, spec_of
from worker.engine.crew import Alone, Crew, Share
from worker.engine.errors import Stopped
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.report import Ablated
from worker.engine.stages.problem import weighed_elements
from worker.engine.stages.sharing import UnlikeMachine
from worker.engine.stages.weighing import Weighing

ROWS = 40


def weighed(
    sources: dict[str, Any], folder: Path, workers: int, crew: Crew, reporter: Recorder | None = None
) -> dict[str, Ablated]:
    run = Run(spec_of(sources, workers), folder, reporter or SilentReporter(), crew)
    return Weighing(run, ROWS).ablated()


def first_share(sources: dict[str, Any], finished: Path) -> Share:
    run = Run(spec_of(sources, 2), finished, SilentReporter())
    return as_given(run, Weighing(run, ROWS).shares()[0])


def test_the_losses_are_the_same_to_the_last_bit(
    sources: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    one = weighed(sources, finished, 1, Alone())
    recorder = Recorder()
    split = Split(helper_of(spec_of(sources, 3), finished, tmp_path, "analyse"))
    assert weighed(sources, finished, 3, split, recorder) == one
    assert weighed(sources, finished, 2, Alone()) == one
    assert list(weighed(sources, finished, 64, Alone()).items()) == list(one.items())
    assert recorder.events == ["analyse.shared"]
    assert len(set(one.values())) > len(one) // 2  # they do differ from element to element


def test_a_helper_never_gets_the_holdout(sources: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    first = first_share(sources, finished)
    helper_of(spec_of(sources, 3), finished, tmp_path, "analyse")(first)
    assert (finished / "prepare" / "data" / "holdout.parquet").exists()
    assert {path.name for path in tmp_path.rglob("*.parquet")} == {"selection.parquet"}


def test_one_worker_has_one_share(sources: dict[str, Any], finished: Path) -> None:
    run = Run(spec_of(sources, 1), finished, SilentReporter())
    assert len(Weighing(run, ROWS).shares()) == 1


def test_every_element_is_in_one_share(sources: dict[str, Any], finished: Path) -> None:
    for workers in (2, 3, 64):
        run = Run(spec_of(sources, workers), finished, SilentReporter())
        shares = Weighing(run, ROWS).shares()
        names = [name for share in shares for name in share["elements"]]
        assert len(names) == len(set(names))
        assert set(names) == {each.id for each in weighed_elements(run, run.dense.anatomy.full_shape())}
        # Three layers, the siblings of six blocks, two hidden groups.
        assert len(shares) == min(11, 4 * workers)


def test_a_helper_on_another_kind_of_machine_declines(
    sources: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    first = first_share(sources, finished)
    elsewhere = first | {"machine": first["machine"] | {"processor": "another"}}
    with pytest.raises(UnlikeMachine):
        helper_of(spec_of(sources, 3), finished, tmp_path, "analyse")(elsewhere)
    work = helper_of(spec_of(sources, 3), finished, tmp_path, "analyse")(first)
    with pytest.raises(UnlikeMachine):
        work(elsewhere)


def test_a_helper_takes_as_many_threads_as_the_run(
    sources: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    first = first_share(sources, finished)
    try:
        torch.set_num_threads(before + 1)
        helper_of(spec_of(sources, 3), finished, tmp_path, "analyse")(first)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_losses_that_are_no_numbers_pass(
    sources: dict[str, Any], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        PrefixReplay, "losses_without", lambda replay, siblings: [np.full(ROWS, np.nan) for _ in siblings]
    )
    without = weighed(sources, finished, 2, Alone())
    assert all(each.loss != each.loss for each in without.values())


def test_weighing_can_be_stopped_between_elements(sources: dict[str, Any], finished: Path) -> None:
    recorder = Recorder(stop_after=5)
    with pytest.raises(Stopped):
        weighed(sources, finished, 2, Alone(), recorder)
    assert recorder.checks == 6
