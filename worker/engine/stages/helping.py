"""The stages whose work other processes may share, and what these need for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.spec import JobSpec
from worker.engine.crew import Outcome, Share
from worker.engine.reporting import Reporter
from worker.engine.stages import weighing

Helper = Callable[[JobSpec, Path, Reporter, Share], Callable[[Share], Outcome]]


@dataclass(frozen=True)
class Shared:
    """`helper` does shares in a folder that has the run's files with a name in `needed`."""

    helper: Helper
    needed: Callable[[str], bool]


SHARED: dict[str, Shared] = {"analyse": Shared(weighing.helper, weighing.is_needed)}
