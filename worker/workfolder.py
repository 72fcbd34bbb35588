"""The local folders of runs: `DATA_DIR/work/<job>`. Imports no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import select

from models.database import Database
from models.job import TERMINAL, Job


def work_folder(data_dir: Path, job_id: str) -> Path:
    """Where a job's run keeps its files on this machine."""
    return data_dir.resolve() / "work" / job_id


def helper_folder(data_dir: Path, job_id: str, holder: str) -> Path:
    """Where a helper reads the files of another worker's job: its own, gone when it leaves."""
    return work_folder(data_dir, job_id) / f"helper-{holder.rpartition(':')[2]}"


def sweep(database: Database, data_dir: Path) -> list[str]:
    """Remove the folders of jobs that are done or deleted, wherever they ended. Returns their ids."""
    root = data_dir.resolve() / "work"
    present = {path.name for path in root.glob("job_*")}
    if not present:
        return []
    with database.session() as session:
        alive = select(Job.id).where(Job.id.in_(present), Job.status.not_in(TERMINAL))
        done = sorted(present.difference(session.scalars(alive)))
    for job_id in done:
        shutil.rmtree(root / job_id, ignore_errors=True)
    return done
