"""What a job yields: candidates and the certificate. The certificate's keys are stable."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.spec.base import Document
from models.spec.recipe import Recipe

Verdict = Literal["met", "best_effort", "infeasible"]
Loadable = Literal["native", "remote_code", "onnx"]


class CandidateMeasurements(Document):
    """Measured on the selection split, except `latency_ms` when `latency_source` says predicted."""

    loss: float | None = None
    metric: float | None = None
    parameters: int
    macs: int = Field(description="Multiply-accumulates for one example of the target's length.")
    size_bytes: int
    latency_ms: float | None = None
    latency_source: Literal["measured", "predicted"] | None = None
    speedup: float | None = None
    size_reduction: float | None = None


class Candidate(Document):
    number: int = Field(ge=0)
    stage: Literal["baseline", "search", "recover"]
    recipe: Recipe
    measurements: CandidateMeasurements
    accepted: bool
    reason: str = Field(description="Why it was accepted or refused, in a sentence.")


class MetricValue(Document):
    name: str
    value: float


class Latency(Document):
    p50: float
    p95: float


class ModelMeasurements(Document):
    metric: MetricValue
    latency_ms: Latency
    throughput: float = Field(description="Examples per second.")
    size_bytes: int
    parameters: int
    macs: int


class Ratios(Document):
    """Against the dense fp32 model in the same runtime and the same run."""

    speedup: float
    size_reduction: float
    relative_drop: float
    relative_drop_interval: tuple[float, float]


class ConstraintResult(Document):
    name: str = Field(examples=["speed.min_speedup"])
    required: float
    measured: float
    met: bool


class Certificate(Document):
    dense: ModelMeasurements
    optimized: ModelMeasurements
    ratios: Ratios
    constraints: tuple[ConstraintResult, ...]
    constraints_met: bool
    verdict: Verdict
    loadable: Loadable
    device: str
    runtime: str
    versions: dict[str, str]
    seed: int
    spec_digest: str
    artifacts: dict[str, str] = Field(description="Name of each exported file: its sha256.")
    nearest: dict[str, float] = Field(
        default_factory=dict,
        description="For each constraint that is not met, by its name: the value nearest to what was asked "
        "that a trained candidate had on the selection split while it held the others; of any candidate "
        "where none held the others.",
    )
    notes: tuple[str, ...] = Field(
        (),
        description="What the figures mean where that is not obvious, what was decided for the job, what "
        "cannot be reached, and why, in sentences.",
    )
    holdout_rows: int
    recipe: Recipe
    spread: dict[str, float] = Field(
        default_factory=dict,
        description="`speedup`: how far the rounds' ratios lie apart, relative to their median, which is "
        "`speedup_median`; the certified ratio is that of each model's fastest round. `processor_wait`: "
        "seconds that the timed models waited for a processor that others had, for each second.",
    )
