"""The real runner and helper, held at their shares: `python -m tests.faults.fanout run|help JOB WHO`.

AXFORGE_FAULTS is the folder that directs them. A run waits before its first share of a stage while
`hold-run-STAGE` is there, a helper inside every share while `hold-help-STAGE` is there. Each share is
noted in `log`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import worker.tasks
from worker.celery_app import app
from worker.engine.crew import Outcome, Share
from worker.supervisor import Supervisor


def main() -> int:
    from worker import helper, runner
    from worker.engine.stages.trials import Trials
    from worker.engine.stages.weighing import Weighing

    role, job_id, who = sys.argv[1:]
    folder = Path(os.environ["AXFORGE_FAULTS"])
    Weighing.work = _held(Weighing.work, folder, role, "analyse")  # type: ignore[method-assign]
    Trials.work = _held(Trials.work, folder, role, "search")  # type: ignore[method-assign]
    return runner.main(job_id, int(who)) if role == "run" else helper.main(job_id, who)


def _held(whole: Callable[[Any, Share], Outcome], folder: Path, role: str, stage: str) -> Any:
    def work(self: Any, share: Share) -> Outcome:
        with (folder / "log").open("a") as log:
            log.write(f"{role} {stage}\n")
        while (folder / f"hold-{role}-{stage}").exists():
            self._run.reporter.check()
            time.sleep(0.02)
        return whole(self, share)

    return work


worker.tasks.Supervisor = partial(  # type: ignore[misc]
    Supervisor,
    command=lambda job: [sys.executable, "-m", "tests.faults.fanout", "run", job.id, str(job.attempt)],
    help_command=lambda shard: [
        *(sys.executable, "-m", "tests.faults.fanout", "help", shard.job_id, shard.holder)
    ],
)

__all__ = ["app"]

if __name__ == "__main__":
    sys.exit(main())
