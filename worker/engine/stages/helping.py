"""The stages whose work other processes may share, and what these need for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from models.spec import JobSpec
from worker.engine.crew import Outcome, Share
from worker.engine.reporting import Reporter
from worker.engine.run import Run
from worker.engine.stages.sharing import UnlikeMachine, machine_of
from worker.engine.stages.trials import Trials
from worker.engine.stages.weighing import Weighing

Work = Callable[[Share], Outcome]
NEEDED = (
    "prepare/done.json",
    "prepare/data/",
    "baseline/done.json",
    "baseline/model/",
    "baseline/vocabulary/",
)
"""Of the finished stages' files: names, or folders with a slash at their end."""
HOLDOUT = "prepare/data/holdout.parquet"
TRAIN = "prepare/data/train.parquet"


@dataclass(frozen=True)
class Shared:
    """How a helper does a stage's shares. `work` makes what does shares like a first one, and may take
    its time for it; `not_needed` are files that it can do without."""

    work: Callable[[Run, Share], Work]
    not_needed: tuple[str, ...]

    def needed(self, name: str) -> bool:
        """Whether a helper needs that file of the run's folder. The holdout it never sees."""
        return name.startswith(NEEDED) and name not in self.not_needed

    def helper(self, spec: JobSpec, workdir: Path, reporter: Reporter, first: Share) -> Work:
        """What does shares of a run whose needed files lie in `workdir`.

        Raises UnlikeMachine where the run computes on another kind of machine than this process.
        """
        torch.set_num_threads(first["machine"]["threads"])
        run = Run(spec, workdir, reporter)
        here = machine_of(run.device)
        if here != first["machine"]:
            raise UnlikeMachine(f"{here} is not {first['machine']}")
        work = self.work(run, first)

        def checked(share: Share) -> Outcome:
            if share["machine"] != here:  # of another attempt of the job, elsewhere
                raise UnlikeMachine("the job goes on in another way than it was when this process began")
            return work(share)

        return checked


def _weighing(run: Run, first: Share) -> Work:
    return Weighing(run, first["rows"]).work


def _trials(run: Run, first: Share) -> Work:
    return Trials(run).work


SHARED: dict[str, Shared] = {
    "analyse": Shared(_weighing, not_needed=(HOLDOUT, TRAIN)),
    "search": Shared(_trials, not_needed=(HOLDOUT,)),
}
