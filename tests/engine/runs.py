"""Small real runs of the whole pipeline: a tiny random BERT on a few BANKING77 intents."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from models.spec import Candidate, JobSpec
from tests.tiny_models import save_tiny_model
from worker.engine.errors import Stopped
from worker.engine.reporting import Stage

ROOT = Path(__file__).resolve().parents[2]
INTENTS = 4
TRAIN_ROWS, TEST_ROWS = 240, 80


def tiny_sources(folder: Path) -> dict[str, Any]:
    """Write a model and a data set below `folder`; the spec's base_model and dataset for them."""
    rows = _rows("train")
    data = folder / "data"
    data.mkdir()
    _write(data / "train.jsonl", rows[:TRAIN_ROWS])
    _write(data / "test.jsonl", rows[TRAIN_ROWS : TRAIN_ROWS + TEST_ROWS])
    save_tiny_model(folder / "model", (row["text"] for row in rows))
    return {"base_model": {"path": str(folder / "model")}, "dataset": {"path": str(data)}}


def tiny_spec(sources: dict[str, Any], **changes: Any) -> JobSpec:
    """A job of about twenty seconds that any model can pass."""
    document: dict[str, Any] = {
        **sources,
        # No accuracy bound: with one, recovery pushes on for as long as time is left.
        "constraints": {"size": {"min_reduction": 3.4}},
        "focus": "size",
        "baseline": {"epochs": 2, "learning_rate": 0.003},
        "recovery": {"epochs": 1},
        "budget": {"max_minutes": 1.5},
    }
    return JobSpec.model_validate(document | changes)


class Recorder:
    """A reporter that keeps what it hears, and stops the run after as many checks as it is told."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.candidates: list[Candidate] = []
        self.events: list[str] = []
        self.stages: list[str] = []
        self.checks = 0
        self._stop_after = stop_after

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        if not self.stages or self.stages[-1] != stage:
            self.stages.append(stage)

    def event(self, type: str, message: str, **data: Any) -> None:
        self.events.append(type)

    def candidate(self, candidate: Candidate) -> None:
        self.candidates.append(candidate)

    def check(self) -> None:
        self.checks += 1
        if self._stop_after is not None and self.checks > self._stop_after:
            raise Stopped


def _rows(split: str) -> list[dict[str, str]]:
    file = ROOT / "examples" / "data" / "banking77" / f"{split}.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows: list[dict[str, str]] = [json.loads(line) for line in lines]
    intents = sorted({row["label"] for row in rows})[:INTENTS]
    by_intent = [[row for row in rows if row["label"] == intent] for intent in intents]
    return [row for together in zip(*by_intent, strict=False) for row in together]


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
