"""Put report.json together from what the stages left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from models.spec import Certificate, JobSpec, Recipe, metric_value
from models.spec.front import pareto_front
from worker.engine.measure.grid import Grid
from worker.engine.recording import ToldCandidate, recipe_digest
from worker.engine.report.redaction import public_name, public_spec
from worker.engine.report.schema import (
    Architecture,
    AttentionProbe,
    CandidateLine,
    LatencyCell,
    LatencyGrid,
    Milliseconds,
    PartBytes,
    Report,
    Reproduction,
    Significance,
    StageTime,
    Timeline,
)
from worker.engine.report.uncertainty import Uncertainty

COMMAND = "axforge optimize spec.yaml --output out"


@dataclass(frozen=True)
class Evidence:
    """What a report tells; documents are the JSON of the files of those names."""

    spec: JobSpec
    certificate: Certificate
    uncertainty: Uncertainty
    candidates: Sequence[ToldCandidate]
    significance: Mapping[str, Any]
    attention: AttentionProbe
    holdout: dict[str, Any]
    architecture: Architecture
    bytes: tuple[PartBytes, ...]
    milliseconds: Milliseconds
    grid: Grid
    timeline: Mapping[str, Mapping[str, Any]]
    seconds: float
    threads: int


def report_document(given: Evidence, now: datetime | None = None) -> Report:
    """The report; `now` is when it is written."""
    spec, certificate = given.spec, given.certificate
    return Report(
        name=spec.name,
        written_at=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        task=spec.task,
        metric=spec.metric,
        focus=spec.focus,
        strategy=spec.strategy,
        base_model=public_name(spec.base_model),
        dataset=public_name(spec.dataset),
        verdict=certificate.verdict,
        constraints_met=certificate.constraints_met,
        nearest_feasible=certificate.model_dump(mode="json").get("nearest_feasible"),
        loadable=certificate.loadable,
        device=certificate.device,
        runtime=certificate.runtime,
        batch_size=spec.target.batch_size,
        sequence_length=spec.target.sequence_length,
        threads=given.threads,
        holdout_rows=certificate.holdout_rows,
        dense=certificate.dense,
        optimized=certificate.optimized,
        ratios=certificate.ratios,
        spread=certificate.spread,
        constraints=tuple(map(given.uncertainty.judged, certificate.constraints)),
        candidates=candidate_lines(given.candidates, certificate.recipe, spec.metric),
        significance=Significance(
            **{name: value for name, value in given.significance.items() if name in Significance.model_fields}
        ),
        attention=given.attention,
        architecture=given.architecture,
        bytes=given.bytes,
        milliseconds=given.milliseconds,
        latency=_latency(given.grid, given.threads),
        holdout=given.holdout,
        timeline=_timeline(given),
        reproduction=Reproduction(
            command=COMMAND, spec=public_spec(spec), versions=certificate.versions, seed=spec.seed
        ),
    )


def candidate_lines(
    candidates: Sequence[ToldCandidate], delivered: Recipe, metric: str = "accuracy"
) -> tuple[CandidateLine, ...]:
    """All candidates by number, with the Pareto front of metric, bytes and milliseconds among them."""
    points = {
        each.number: (-metric_value(metric, m.metric), float(m.size_bytes), m.latency_ms)
        for each in candidates
        if (m := each.measurements).metric is not None and m.latency_ms is not None
    }
    front = dict(zip(points, pareto_front(list(points.values())), strict=True))
    digest = recipe_digest(delivered)
    last = max((each.number for each in candidates if each.recipe_digest == digest), default=None)
    return tuple(
        CandidateLine(
            number=each.number,
            stage=each.stage,
            accepted=each.accepted,
            reason=each.reason,
            summary=each.summary,
            measurements=each.measurements,
            on_front=front.get(each.number),
            delivered=each.number == last,  # where nothing was removed, the baseline had the same recipe
        )
        for each in candidates
    )


def _latency(grid: Grid, threads: int) -> LatencyGrid:
    return LatencyGrid(
        cells=tuple(
            LatencyCell(
                length=length,
                batch_size=batch,
                dense_ms=taken.dense,
                optimized_ms=taken.optimized,
                speedup=taken.dense / taken.optimized,
            )
            for (length, batch), taken in sorted(grid.cells.items())
        ),
        not_measured=tuple(sorted(grid.not_measured)),
        threads=threads,
        seconds=grid.seconds,
    )


def _timeline(given: Evidence) -> Timeline:
    return Timeline(
        stages=tuple(StageTime(stage=stage, **times) for stage, times in given.timeline.items()),
        seconds=given.seconds,
        budget_seconds=given.spec.budget.max_minutes * 60,
    )
