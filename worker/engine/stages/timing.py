"""Times on the target, comparable with each other over the whole run.

Two comparisons that lie minutes apart meet a shared machine in different states, and a state may last
longer than a comparison. So each one times the dense model and its delivered precision along, and what a
candidate takes is carried over to the least disturbed state that the run has seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from worker.engine.measure.latency import Comparison, compare
from worker.engine.measure.probing import ModelFile
from worker.engine.run import Run
from worker.engine.workspace import read_json, write_json


@dataclass(frozen=True)
class ReferenceTimes:
    """Milliseconds a call, in the fastest round of the run so far: of the dense fp32 model, and of the
    dense model in the precision that is delivered."""

    dense: float
    whole: float


@dataclass(frozen=True)
class TimedFile:
    """`ms`: milliseconds a call in the least disturbed state; percentiles and throughput as they came.

    `part`: of the time that the dense model took in the delivered precision, in the same comparison.
    """

    ms: float
    part: float
    speedup: float
    p50: float
    p95: float
    throughput: float


def reference_times(run: Run) -> ReferenceTimes:
    """As noted so far; there are some from the baseline on."""
    noted = _noted(run)
    assert noted is not None
    return noted


def note_times(run: Run, comparison: Comparison, *, dense: str, whole: str) -> ReferenceTimes:
    """Keep the faster of what is known and what the comparison's models of these names took."""
    taken = ReferenceTimes(comparison[dense].fastest, comparison[whole].fastest)
    if (noted := _noted(run)) is not None:
        taken = ReferenceTimes(min(taken.dense, noted.dense), min(taken.whole, noted.whole))
    write_json(_file(run), vars(taken))
    return taken


def timed(run: Run, file: ModelFile, dense: ModelFile, whole: ModelFile, share: float = 1.0) -> TimedFile:
    """Time `file` in turns with the dense model's two files, which may be the same one.

    `share`: of the time that a comparison usually takes.
    """
    models = {"dense": dense, "candidate": file} | ({} if whole == dense else {"whole": whole})
    comparison = compare(
        models,
        run.timed_inputs(),
        own_inputs={"dense": run.dense.timed_inputs()},
        threads=run.threads,
        seconds=share * run.timing_seconds,
        on_round=run.reporter.check,
    )
    reference = "dense" if whole == dense else "whole"
    best = note_times(run, comparison, dense="dense", whole=reference)
    candidate = comparison["candidate"]
    part = candidate.fastest / comparison[reference].fastest
    return _carried_over(TimedFile(0.0, part, 0.0, candidate.p50, candidate.p95, candidate.throughput), best)


def timed_again(
    run: Run, before: TimedFile, file: ModelFile, dense: ModelFile, whole: ModelFile
) -> TimedFile:
    """What `timed` answers now or `before`, whichever was faster beside its comparison's dense model."""
    faster = min(before, timed(run, file, dense, whole), key=lambda each: each.part)
    return _carried_over(faster, reference_times(run))


def _carried_over(taken: TimedFile, best: ReferenceTimes) -> TimedFile:
    """To the state in which the dense model took what `best` says."""
    ms = taken.part * best.whole
    return replace(taken, ms=ms, speedup=best.dense / ms)


def _noted(run: Run) -> ReferenceTimes | None:
    stored = read_json(_file(run))
    return None if stored is None else ReferenceTimes(**stored)


def _file(run: Run) -> Path:
    return run.workspace.root / "times.json"
