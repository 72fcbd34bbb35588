"""How far a run is, as one number, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from worker.engine.reporting import STAGES, Stage

# The share of a job's time that a stage takes: measured on the example job on two cores.
WEIGHTS: dict[Stage, float] = {
    "prepare": 0.01,
    "baseline": 0.35,
    "analyse": 0.17,
    "search": 0.17,
    "recover": 0.22,
    "export": 0.01,
    "certify": 0.07,
}
LEAST_KNOWN = 0.02  # an estimate from less than this share of the work would jump about


class Gauge:
    """Turns steps into the progress document. The fraction never falls within one run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin: tuple[float, float] | None = None  # time and fraction of the first report
        self._fraction = 0.0

    def document(self, stage: Stage, step: int, total: int | None, message: str) -> dict[str, Any]:
        """`{stage, step, total, fraction, eta_seconds, message}` for a step that is done."""
        before = sum(WEIGHTS[earlier] for earlier in STAGES[: STAGES.index(stage)])
        within = min(step / total, 1.0) if total else 0.0
        self._fraction = max(self._fraction, min(before + WEIGHTS[stage] * within, 1.0))
        return {
            "stage": stage,
            "step": step,
            "total": total,
            "fraction": round(self._fraction, 4),
            "eta_seconds": self._eta(),
            "message": message,
        }

    def _eta(self) -> float | None:
        """What is left at the rate so far. A resumed run counts from where it went on."""
        if self._begin is None:
            self._begin = self._clock(), self._fraction
        begin, at = self._begin
        known = self._fraction - at
        if known < LEAST_KNOWN:
            return None
        return round((self._clock() - begin) * (1.0 - self._fraction) / known, 1)


def finished() -> dict[str, Any]:
    """The progress of a job that succeeded."""
    return {
        "stage": STAGES[-1],
        "step": 1,
        "total": 1,
        "fraction": 1.0,
        "eta_seconds": 0.0,
        "message": "done",
    }
