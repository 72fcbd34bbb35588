"""One key of `bench/results/service.json`, written without touching the others."""

from __future__ import annotations

import fcntl
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from worker.engine.measure.machine import describe

SERVICE = Path(__file__).parent / "results" / "service.json"
DRY = Path(__file__).parent.parent / "out" / "bench-dry"
DISTRIBUTIONS = ("axforge-server", "fastapi", "starlette", "uvicorn", "pydantic", "sqlalchemy", "psycopg")


def record(key: str, value: Any, path: Path = SERVICE) -> None:
    """Replace what the file holds under `key`; several programs may record at once."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        document = {**(json.loads(text) if text else {}), key: value}
        file.truncate(0)
        file.write(json.dumps(document, indent=1, sort_keys=True) + "\n")


def dry(results: Path) -> Path:
    """Where a dry run, which only shows that a command runs to its end, writes what would go to `results`."""
    DRY.mkdir(parents=True, exist_ok=True)
    return DRY / results.name


def machine() -> dict[str, Any]:
    """Where and with what a measurement was taken."""
    host = describe()
    return {
        "processor": host.processor,
        "cores": host.cores,
        "memory_gib": round(host.memory_bytes / 2**30, 1),
        "versions": host.versions | {name: metadata.version(name) for name in DISTRIBUTIONS},
    }
