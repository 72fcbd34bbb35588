"""What a run has told, kept in its folder: all candidates, and when each stage began and ended."""

from __future__ import annotations

import hashlib
from typing import Any

from models.spec import Candidate, CandidateMeasurements, Recipe
from models.spec.base import Document
from worker.engine.report.summaries import summary
from worker.engine.reporting import FINISHED, STARTED, Reporter, Stage
from worker.engine.workspace import Stopwatch, Workspace, read_json, write_json

CANDIDATES = "candidates.json"
TIMELINE = "timeline.json"


class ToldCandidate(Document):
    """A candidate as it was told, its recipe in a sentence.

    A recipe may name thousands of channels, and this is written, and uploaded, with every candidate.
    """

    number: int
    stage: str
    accepted: bool
    reason: str
    summary: str
    measurements: CandidateMeasurements
    recipe_digest: str

    @staticmethod
    def of(candidate: Candidate) -> ToldCandidate:
        return ToldCandidate(
            number=candidate.number,
            stage=candidate.stage,
            accepted=candidate.accepted,
            reason=candidate.reason,
            summary=summary(candidate.recipe),
            measurements=candidate.measurements,
            recipe_digest=recipe_digest(candidate.recipe),
        )


class RecordingReporter:
    """Passes everything on, after what the report needs of it is written to the workspace.

    A candidate that a resumed run tells again replaces the one of its number. Times are seconds of the
    run's stopwatch, which goes on over all attempts.
    """

    def __init__(self, inner: Reporter, workspace: Workspace, stopwatch: Stopwatch) -> None:
        self._inner = inner
        self._workspace = workspace
        self._stopwatch = stopwatch

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        if message in (STARTED, FINISHED):
            self._note(stage, message)
        self._inner.progress(stage, step, total, message, **metrics)

    def event(self, type: str, message: str, **data: Any) -> None:
        self._inner.event(type, message, **data)

    def candidate(self, candidate: Candidate) -> None:
        known = recorded_candidates(self._workspace)
        known[candidate.number] = ToldCandidate.of(candidate)
        document = [known[number].model_dump(mode="json") for number in sorted(known)]
        write_json(self._workspace.root / CANDIDATES, {"candidates": document})
        self._inner.candidate(candidate)

    def check(self) -> None:
        self._inner.check()

    def _note(self, stage: Stage, message: str) -> None:
        timeline = recorded_timeline(self._workspace)
        entry = timeline.setdefault(stage, {"began": self._stopwatch.used, "ended": None, "attempts": 0})
        if message == STARTED:
            entry["attempts"] += 1
            entry["ended"] = None
        elif entry["ended"] is None:
            entry["ended"] = max(
                entry["began"], self._stopwatch.used
            )  # a killed run's clock may have gone on
        write_json(self._workspace.root / TIMELINE, timeline)


def recorded_candidates(workspace: Workspace) -> dict[int, ToldCandidate]:
    """All candidates that the run has told of, by number."""
    stored = read_json(workspace.root / CANDIDATES) or {"candidates": []}
    candidates = (ToldCandidate.model_validate(document) for document in stored["candidates"])
    return {candidate.number: candidate for candidate in candidates}


def recorded_timeline(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """By stage: when it `began` and `ended` (seconds of the stopwatch, None while it lasts), and how many
    `attempts` it took."""
    return read_json(workspace.root / TIMELINE) or {}


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 of a recipe's canonical JSON."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()
