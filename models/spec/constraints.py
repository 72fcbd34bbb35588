"""What the delivered model must keep to, and what to push once it does."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from models.spec.base import Document

Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)


class AccuracyConstraint(Document):
    """Bounds on the task metric, against the dense model measured in the same run.

    Relative drop is (dense - optimized) / |dense|, and of a metric of which less is better (perplexity)
    (optimized - dense) / |dense|; positive means worse.
    """

    max_relative_drop: float | None = Field(None, ge=0.0, lt=1.0)
    max_absolute_drop: float | None = Field(None, ge=0.0)
    min: float | None = Field(None, description="Lowest value allowed, of a metric of which more is better.")
    max: float | None = Field(None, description="Highest value allowed, of a metric of which less is better.")
    min_gain: float | None = Field(None, ge=0.0, description="By how much the metric gets better, at least.")
    confidence: Literal["point"] | float = Field(
        "point",
        description="`point` judges the measured value; 0.95 judges that end of the paired interval.",
    )

    @field_validator("confidence")
    @classmethod
    def _confidence_level(cls, value: Literal["point"] | float) -> Literal["point"] | float:
        if value != "point" and not 0.5 <= float(value) < 1.0:
            raise ValueError("give `point` or a level from 0.5 to below 1, such as 0.95")
        return value

    @model_validator(mode="after")
    def _no_contradiction(self) -> AccuracyConstraint:
        if self.min_gain and (self.max_relative_drop or self.max_absolute_drop):
            raise ValueError("min_gain above 0 contradicts an allowed drop; give one of the two")
        return self


class SizeConstraint(Document):
    """Bounds on the bytes of the exported model file."""

    min_reduction: float | None = Field(None, ge=1.0, le=1000.0)
    max_bytes: int | None = Field(None, ge=1)


class SpeedConstraint(Document):
    """Bounds on time per call at the target's batch size and lengths."""

    min_speedup: float | None = Field(None, ge=1.0, le=1000.0)
    max_latency_ms: float | None = Field(None, gt=0.0)
    percentile: Literal["p50", "p95"] = Field("p50", description="Which latency max_latency_ms bounds.")
    min_throughput: float | None = Field(None, gt=0.0, description="Examples per second.")


class Constraints(Document):
    accuracy: AccuracyConstraint = AccuracyConstraint()
    size: SizeConstraint = SizeConstraint()
    speed: SpeedConstraint = SpeedConstraint()
    loadable: Literal["native"] | None = Field(
        None,
        description="`native`: plain `from_pretrained` of transformers loads the safetensors folder, so that "
        "only whole layers, equal numbers of FFN channels in all layers and vocabulary rows go.",
    )

    @property
    def bounds_costs(self) -> bool:
        """Whether there is a bound on size or speed."""
        size, speed = self.size, self.speed
        of_size = (size.min_reduction, size.max_bytes)
        of_speed = (speed.min_speedup, speed.max_latency_ms, speed.min_throughput)
        return any(bound is not None for bound in (*of_size, *of_speed))


Focus = Literal["speed", "size", "balanced", "accuracy"]


class Target(Document):
    """Where the model will run, and so where it is measured."""

    device: Device = "cpu"
    runtime: Literal["onnxruntime", "torch"] = "onnxruntime"
    batch_size: int = Field(1, ge=1, le=1024)
    sequence_length: Literal["data"] | int = Field(
        "data", description="Tokens per example; `data` means the lengths that the data set has."
    )
    threads: int | None = Field(None, ge=1, le=1024, description="Default: all processors of the worker.")

    @field_validator("sequence_length")
    @classmethod
    def _length_in_range(cls, value: Literal["data"] | int) -> Literal["data"] | int:
        if value != "data" and not 4 <= int(value) <= 8192:
            raise ValueError("give `data` or a length from 4 to 8192 tokens")
        return value


class Budget(Document):
    """What a job may spend. The search ends with the best so far when one is used up."""

    max_minutes: float = Field(60.0, gt=0.0, le=60 * 24 * 14)
    max_candidates: int = Field(
        200,
        ge=1,
        le=100_000,
        description="Of the search, which then ends with the best it has come to; the forms of the dense "
        "model that are measured before it and what is trained after it do not count.",
    )
    max_workers: int = Field(
        1, ge=1, le=64, description="Workers that may share the job's work; the result is that of one."
    )
