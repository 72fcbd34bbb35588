"""Spans of a run's stages, made from what the engine reports: it knows nothing of tracing."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

from models import telemetry
from models.spec import Candidate
from worker.engine.reporting import FINISHED, Reporter, Stage


class StageSpans:
    """A reporter that passes everything on, and keeps a span open for the stage that is under way.

    Events and candidates become events of that span, without their data: it is the user's.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._stage: Stage | None = None
        self._span: Any = None
        self._open = ExitStack()

    def __enter__(self) -> StageSpans:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        """A report from another stage ends the span of the last one and begins the next."""
        if stage != self._stage and message != FINISHED:
            self._open.close()
            self._stage = stage
            self._span = self._open.enter_context(telemetry.span(f"stage {stage}", axforge__stage=stage))
        self._reporter.progress(stage, step, total, message, **metrics)
        if message == FINISHED:
            self._open.close()
            self._stage = self._span = None

    def event(self, type: str, message: str, **data: Any) -> None:
        if self._span is not None:
            self._span.add_event(type)
        self._reporter.event(type, message, **data)

    def candidate(self, candidate: Candidate) -> None:
        if self._span is not None:
            attributes = {"axforge.candidate": candidate.number, "axforge.accepted": candidate.accepted}
            self._span.add_event("candidate", attributes)
        self._reporter.candidate(candidate)

    def check(self) -> None:
        self._reporter.check()
