"""Which rung a run ends with, said from outside: for the export of another one than it delivered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worker.engine.workspace import read_json, write_json


class NoSuchRung(Exception):
    """The folder holds no run that trained this candidate."""


def settle_on(folder: Path, candidate: int) -> None:
    """Let the run in `folder`, which is past recovery, go on with the rung that has this candidate's number.

    Raises NoSuchRung.
    """
    searched, climb = read_json(folder / "search" / "done.json"), read_json(folder / "recover" / "climb.json")
    if searched is None or climb is None:
        raise NoSuchRung(f"{folder.name} holds no finished search")
    rungs: list[dict[str, Any]] = climb["rungs"]
    rung = candidate - searched["candidates"]
    kept = f"rung-{rung}"
    if not 0 <= rung < len(rungs) or not (folder / "recover" / kept / "model").is_dir():
        raise NoSuchRung(f"candidate {candidate} has no weights in {folder.name}")
    write_json(
        folder / "recover" / "done.json",
        {**rungs[rung], "rungs": len(rungs), "folder": kept},
    )
