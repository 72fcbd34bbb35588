"""Results files: one key, or rows known by some of their fields, written without touching the others."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping, Sequence
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


class Rows:
    """Rows of a results file, each known by its fields named in `key`, written as they come.

    Beside `rows` the file has `machines`; `machine` of a row is the place of its own among them.
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path, self._key = path, tuple(key)

    def all(self) -> list[dict[str, Any]]:
        """In the order of their keys."""
        rows: list[dict[str, Any]] = self._read("rows")
        return rows

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row with these values of its key, or None."""
        wanted = [key[name] for name in self._key]
        return next((row for row in self.all() if self._of(row) == wanted), None)

    def keep(self, row: Mapping[str, Any]) -> None:
        """Write the row, in the place of an earlier one with the same key."""
        machines, here = self._read("machines"), machine()
        if here not in machines:
            machines.append(here)
            record("machines", machines, self.path)
        others = [each for each in self.all() if self._of(each) != self._of(row)]
        kept = {**row, "machine": machines.index(here)}
        record("rows", sorted([*others, kept], key=self._of), self.path)

    def _of(self, row: Mapping[str, Any]) -> list[Any]:
        return [row[name] for name in self._key]

    def _read(self, name: str) -> list[Any]:
        held: dict[str, list[Any]] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return held.get(name, [])


def dry(results: Path) -> Path:
    """Where a dry run, which only shows that a command runs to its end, writes what would go to `results`."""
    DRY.mkdir(parents=True, exist_ok=True)
    return DRY / results.name


def of_certificate(told: Mapping[str, Any]) -> dict[str, Any]:
    """What rows of every bench keep of a certificate (JSON)."""
    ratios, dense, optimized = told["ratios"], told["dense"], told["optimized"]
    return {
        "metric": dense["metric"]["name"],
        "dense_metric": dense["metric"]["value"],
        "optimized_metric": optimized["metric"]["value"],
        "relative_drop": ratios["relative_drop"],
        "interval": ratios["relative_drop_interval"],
        "speedup": ratios["speedup"],
        "size_reduction": ratios["size_reduction"],
        "parameters": optimized["parameters"],
        "met": told["constraints_met"],
        "holdout_rows": told["holdout_rows"],
        "spread": told["spread"],
    }


def machine() -> dict[str, Any]:
    """Where and with what a measurement was taken."""
    host = describe()
    return {
        "processor": host.processor,
        "cores": host.cores,
        "memory_gib": round(host.memory_bytes / 2**30, 1),
        "versions": host.versions | {name: metadata.version(name) for name in DISTRIBUTIONS},
    }
