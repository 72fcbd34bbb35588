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


def sweep(database: Database, data_dir: Path) -> list[str]:
    """Remove the folders of jobs that are done, wherever they ended. Returns their ids."""
    root = data_dir.resolve() / "work"
    present = [path.name for path in root.iterdir()] if root.is_dir() else []
    if not present:
        return []
    with database.session() as session:
        finished = select(Job.id).where(Job.id.in_(present), Job.status.in_(TERMINAL))
        done = list(session.scalars(finished))
    for job_id in done:
        shutil.rmtree(root / job_id, ignore_errors=True)
    return done
