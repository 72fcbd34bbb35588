"""A run whose baseline is done, and a crew of which a helper does every other share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.spec import JobSpec
from tests.engine.runs import tiny_spec
from worker.engine.crew import Outcome, Outcomes, Share
from worker.engine.reporting import SilentReporter, Stage
from worker.engine.run import Run
from worker.engine.stages.helping import SHARED, Work
from worker.engine.stages.sharing import machine_of


class Split:
    """A crew of several processes' worth: every other share is done by a helper with files of its own."""

    def __init__(self, helper: Callable[[Share], Work]) -> None:
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


def spec_of(sources: dict[str, Any], workers: int, minutes: float = 0.2) -> JobSpec:
    return tiny_spec(sources, budget={"max_minutes": minutes, "max_workers": workers})


def as_given(run: Run, share: Share) -> Share:
    """A share as a crew is given it."""
    return {**share, "machine": machine_of(run.device)}


def helper_of(spec: JobSpec, finished: Path, folder: Path, stage: Stage) -> Callable[[Share], Work]:
    """A helper at a stage that has the needed files only, in a folder of its own."""

    def helper(first: Share) -> Work:
        for path in finished.rglob("*"):
            name = path.relative_to(finished).as_posix()
            if path.is_file() and SHARED[stage].needed(name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / name)
        return SHARED[stage].helper(spec, folder, SilentReporter(), first)

    return helper
