"""The real runner and helper, held at their shares: `python -m tests.faults.fanout run|help JOB WHO`.

AXFORGE_FAULTS is the folder that directs them. A run waits before its first share while `hold-run` is
there, a helper inside every share while `hold-help` is there. Each share is noted in `log`.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import worker.tasks
from worker.celery_app import app
from worker.supervisor import Supervisor


def main() -> int:
    from worker import helper, runner
    from worker.engine.crew import Outcome, Share
    from worker.engine.stages.weighing import Weighing

    role, job_id, who = sys.argv[1:]
    folder = Path(os.environ["AXFORGE_FAULTS"])
    whole = Weighing.work

    def work(weighing: Weighing, share: Share) -> Outcome:
        with (folder / "log").open("a") as log:
            log.write(f"{role} {len(share['elements'])}\n")
        while (folder / f"hold-{role}").exists():
            weighing._run.reporter.check()
            time.sleep(0.02)
        return whole(weighing, share)

    Weighing.work = work  # type: ignore[method-assign]
    return runner.main(job_id, int(who)) if role == "run" else helper.main(job_id, who)


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
