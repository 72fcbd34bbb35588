"""How a run tells what it is doing, and asks whether to go on."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from models.spec import Candidate

Stage = Literal["prepare", "baseline", "analyse", "search", "recover", "export", "certify"]
STAGES: tuple[Stage, ...] = (
    "prepare",
    "baseline",
    "analyse",
    "search",
    "recover",
    "export",
    "certify",
)


STARTED = "started"
FINISHED = "finished"
"""The messages of the first and the last report of a stage that this process does itself; a stage
that an earlier process did is reported as finished only."""


class Reporter(Protocol):
    """Implemented by the runner (database), the command line (terminal) and the tests."""

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        """Step `step` of `total` in `stage` is done. Called often: implementations may thin out."""

    def event(self, type: str, message: str, **data: Any) -> None:
        """Something a user wants to read later, such as the columns that were guessed."""

    def candidate(self, candidate: Candidate) -> None:
        """A candidate was measured. Numbers repeat when a resumed run tells it again."""

    def check(self) -> None:
        """Raise `Stopped` when the run was asked to stop. Called at every step that can be left."""


class SilentReporter:
    """Tells nobody and never stops."""

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        """Drop it."""

    def event(self, type: str, message: str, **data: Any) -> None:
        """Drop it."""

    def candidate(self, candidate: Candidate) -> None:
        """Drop it."""

    def check(self) -> None:
        """Go on."""
