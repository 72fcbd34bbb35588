"""How a run is shown while it goes on: live on a terminal, lines in a pipe, JSON lines on request.

Used by `axforge submit --wait` and `axforge events --follow` for jobs of a server, and by
`axforge optimize` for a run of this machine.
"""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console

from axforge.cli.certificate import megabytes, render

Document = Mapping[str, Any]
PLAIN_EVERY = 10.0
"""Seconds between two plain lines of the same stage."""


@dataclass(frozen=True)
class Update:
    """Where a run stands: step `step` of `total` (unknown: None).

    `eta` is in seconds, where known: to the end of the run, or of the stage if `stage_only`.
    """

    stage: str
    step: int
    total: int | None
    message: str
    metrics: Document
    eta: float | None
    stage_only: bool

    def left(self) -> str:
        """The time left, in words; nothing where it is unknown or short."""
        if self.eta is None or self.eta < 1.0:
            return ""
        return f"{duration(self.eta)} left" + (f" in {self.stage}" if self.stage_only else "")


@dataclass
class Tally:
    """What a run has found so far."""

    candidates: int = 0
    accepted: int = 0
    seen: set[int] = field(default_factory=set)

    def add(self, candidate: Document) -> None:
        """Count it, once: a resumed run tells its candidates again."""
        if candidate["number"] not in self.seen:
            self.seen.add(candidate["number"])
            self.candidates += 1
            self.accepted += bool(candidate["accepted"])


class Renderer(Protocol):
    """One way of showing."""

    def start(self) -> None:
        """Take the screen."""

    def stop(self, finished: bool) -> None:
        """Give it back; `finished` says that the last stage came to its end."""

    def progress(self, update: Update, tally: Tally) -> None:
        """The run moved."""

    def event(self, type: str, message: str, data: Document) -> None:
        """Something worth reading later."""

    def candidate(self, candidate: Document, tally: Tally) -> None:
        """A candidate was measured; it is counted in `tally` already."""

    def certificate(self, certificate: Document) -> None:
        """The end of a run that succeeded."""


class ProgressView:
    """A context manager that shows a run on `console` (standard output unless given).

    Everything is optional and may come in any order. Leaving it with an exception, whichever, means
    that the last stage did not end well. Call it from one thread.
    """

    def __init__(
        self,
        console: Console | None = None,
        json: bool = False,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(highlight=False)
        self._clock = clock
        self._tally = Tally()
        self._renderer = _renderer(self._console, json, clock)
        self._stage: str | None = None
        self._stage_began = 0.0

    def __enter__(self) -> Self:
        self._renderer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._renderer.stop(finished=kind is None)

    def progress(
        self,
        stage: str,
        step: int,
        total: int | None = None,
        message: str = "",
        metrics: Document | None = None,
        *,
        eta: float | None = None,
    ) -> None:
        """Step `step` of `total` is done; the run ends in `eta` seconds.

        Without `eta`, the end of the stage is estimated from its pace.
        """
        now = self._clock()
        if stage != self._stage:
            self._stage, self._stage_began = stage, now
        stage_only = eta is None
        if eta is None and total and 0 < step <= total:
            eta = (now - self._stage_began) / step * (total - step)
        update = Update(stage, step, total, message, dict(metrics or {}), eta, stage_only)
        self._renderer.progress(update, self._tally)

    def event(self, type: str, message: str, data: Document | None = None) -> None:
        """Show an event; `data` is shown in JSON only."""
        self._renderer.event(type, message, dict(data or {}))

    def candidate(self, candidate: Document) -> None:
        """Show a candidate: keys `number`, `stage`, `accepted`, `reason`, `measurements`."""
        self._tally.add(candidate)
        self._renderer.candidate(candidate, self._tally)

    def certificate(self, certificate: Document) -> None:
        """Show the certificate as a table (as one object with JSON)."""
        self._renderer.certificate(certificate)


def _renderer(console: Console, json: bool, clock: Callable[[], float]) -> Renderer:
    if json:
        return JsonRenderer(console)
    if console.is_terminal and not console.is_dumb_terminal:
        from axforge.cli.live import LiveRenderer

        return LiveRenderer(console)
    return PlainRenderer(console, clock)


class JsonRenderer:
    """One JSON object a line, each with a `type`."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self) -> None:
        """Nothing to take."""

    def stop(self, finished: bool) -> None:
        self._console.file.flush()

    def progress(self, update: Update, tally: Tally) -> None:
        self._write(
            type="progress",
            stage=update.stage,
            step=update.step,
            total=update.total,
            eta_seconds=None if update.eta is None else round(update.eta, 1),
            message=update.message,
            metrics=update.metrics,
            candidates=tally.candidates,
        )

    def event(self, type: str, message: str, data: Document) -> None:
        self._write(type="event", event=type, message=message, data=data)

    def candidate(self, candidate: Document, tally: Tally) -> None:
        self._write(type="candidate", candidate=candidate)

    def certificate(self, certificate: Document) -> None:
        self._write(type="certificate", certificate=certificate)

    def _write(self, **document: Any) -> None:
        write_json(document, self._console)


class PlainRenderer:
    """Lines without control characters, few enough for a log."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._shown_stage: str | None = None
        self._shown_at = 0.0

    def start(self) -> None:
        """Nothing to take."""

    def stop(self, finished: bool) -> None:
        self._console.file.flush()

    def progress(self, update: Update, tally: Tally) -> None:
        now = self._clock()
        last = update.total is not None and update.step >= update.total
        if update.stage == self._shown_stage and not last and now - self._shown_at < PLAIN_EVERY:
            return
        self._shown_stage, self._shown_at = update.stage, now
        self._line(describe(update, tally))

    def event(self, type: str, message: str, data: Document) -> None:
        self._line(f"{type}: {message}")

    def candidate(self, candidate: Document, tally: Tally) -> None:
        self._line(describe_candidate(candidate))

    def certificate(self, certificate: Document) -> None:
        self._console.print(render(certificate))

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()


def write_json(document: Document, console: Console | None = None) -> None:
    """`document` as one line of JSON."""
    file = sys.stdout if console is None else console.file
    file.write(json_module.dumps(document, ensure_ascii=False, default=str) + "\n")
    file.flush()


def describe(update: Update, tally: Tally) -> str:
    """An update as a line: `search 12/40, about 1:40 left, loss 0.21, 12 candidates (3 accepted)`."""
    counted = f" {update.step}/{update.total}" if update.total else f" {update.step}" if update.step else ""
    parts = [f"{update.stage}{counted}"]
    if left := update.left():
        parts.append(f"about {left}")
    parts.extend(figures(update.metrics))
    if tally.candidates:
        parts.append(found(tally))
    if update.message:
        parts.append(update.message)
    return ", ".join(parts)


def describe_candidate(candidate: Document) -> str:
    """A candidate as a line, with the measurements that it has."""
    measured = candidate.get("measurements") or {}
    parts = [f"candidate {candidate['number']} {'accepted' if candidate['accepted'] else 'refused'}"]
    if (metric := measured.get("metric")) is not None:
        parts.append(f"metric {metric:.4f}")
    elif (loss := measured.get("loss")) is not None:
        parts.append(f"loss {loss:.4f}")
    if (size := measured.get("size_bytes")) is not None:
        parts.append(megabytes(size))
    if (speedup := measured.get("speedup")) is not None:
        source = " (predicted)" if measured.get("latency_source") == "predicted" else ""
        parts.append(f"speedup {speedup:.2f}x{source}")
    if reason := candidate.get("reason"):
        parts.append(reason)
    return ", ".join(parts)


def found(tally: Tally) -> str:
    """The tally in words."""
    noun = "candidate" if tally.candidates == 1 else "candidates"
    return f"{tally.candidates} {noun} ({tally.accepted} accepted)"


def figures(metrics: Document) -> list[str]:
    """Metrics as `name value`."""
    return [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in metrics.items()
    ]


def duration(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
