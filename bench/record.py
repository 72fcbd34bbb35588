"""One key of `bench/results/service.json`, written without touching the others."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

SERVICE = Path(__file__).parent / "results" / "service.json"
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


def machine() -> dict[str, Any]:
    """Where and with what a measurement was taken."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in DISTRIBUTIONS},
        },
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
