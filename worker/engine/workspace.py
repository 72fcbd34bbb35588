"""The folder of a run: one folder a stage, each finished by a `done.json`. Resuming reads it back."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from worker.engine.errors import EngineError
from worker.engine.prepare.disk import disk_room
from worker.engine.reporting import STAGES, Stage


class ForeignWorkspace(EngineError):
    """The folder holds a run of another job spec."""

    code = "foreign_workspace"


class Workspace:
    """Stage folders under `root`, valid for one spec digest only."""

    def __init__(self, root: Path, spec_digest: str) -> None:
        self.root = root
        with disk_room("the run's files"):
            root.mkdir(parents=True, exist_ok=True)
            marker = root / "run.json"
            known = read_json(marker)
            if known is None:
                write_json(marker, {"spec_digest": spec_digest})
            elif known["spec_digest"] != spec_digest:
                raise ForeignWorkspace(
                    "the output folder holds a run of another job spec",
                    remedy="give an empty folder, or the spec that the run was started with",
                )

    def folder(self, stage: Stage) -> Path:
        """The stage's folder, made if need be."""
        folder = self.root / stage
        with disk_room("the run's files"):
            folder.mkdir(exist_ok=True)
        return folder

    def result(self, stage: Stage) -> dict[str, Any] | None:
        """What the finished stage left, or None when it has to run."""
        return read_json(self.root / stage / "done.json")

    def finish(self, stage: Stage, result: dict[str, Any]) -> None:
        """Mark the stage finished, last of all its files."""
        write_json(self.folder(stage) / "done.json", result)

    def forget_from(self, stage: Stage) -> None:
        """Drop a stage and all that follow it, because what they stand on is gone."""
        for later in STAGES[STAGES.index(stage) :]:
            shutil.rmtree(self.root / later, ignore_errors=True)


class Stopwatch:
    """Seconds a run has used of its budget, over all its attempts.

    The count is kept in the workspace, so a resumed run does not get its budget again.
    """

    def __init__(self, root: Path, max_seconds: float) -> None:
        self._file = root / "clock.json"
        self._before = float((read_json(self._file) or {"seconds": 0.0})["seconds"])
        self._start = time.monotonic()
        self._max_seconds = max_seconds

    @property
    def used(self) -> float:
        """Seconds used so far."""
        return self._before + time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._max_seconds - self.used)

    def save(self) -> None:
        """Write the count down; called at every checkpoint."""
        write_json(self._file, {"seconds": self.used})


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    value: dict[str, Any] = json.loads(text)
    return value


def write_json(path: Path, value: Any) -> None:
    """Replace a file as a whole: a reader sees the old or the new, never half of one."""
    with disk_room("the run's files"):
        partial = path.with_name(f".{path.name}.part")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
