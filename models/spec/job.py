"""JobSpec: the one definition of a job, used by HTTP, worker, command line and engine."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from models.spec.base import Document
from models.spec.constraints import Budget, Constraints, Focus, Target
from models.spec.sources import DatasetSource, ModelSource
from models.spec.tasks import TASK_COLUMNS, TASK_METRICS, TASKS, MetricName, TaskName

StrategyName = Literal["axformer"]
ApproximationName = Literal[
    "prune_layers",
    "prune_blocks",
    "prune_heads",
    "prune_weight_groups",
    "prune_vocabulary",
    "low_rank_embeddings",
    "low_rank_ffn",
    "hard_attention",
    "quantize",
]
ExportName = Literal["safetensors", "onnx"]
APPROXIMATIONS: tuple[ApproximationName, ...] = get_args(ApproximationName)


def _without_default(schema: dict[str, Any]) -> None:
    """For a field whose default depends on another."""
    schema.pop("default", None)


class TrainingOptions(Document):
    """How a model is trained: the approximated one in recovery, and the dense one before."""

    epochs: int | None = Field(None, ge=1, le=1000, description="At most; default by data size.")
    learning_rate: float | None = Field(
        None, gt=0.0, lt=1.0, description="Peak; default by the model's width and what it has lost."
    )
    batch_size: int = Field(32, ge=1, le=4096)


class BaselineOptions(TrainingOptions):
    """Fine-tuning of the base model, and how the task's texts are cut."""

    max_length: int = Field(128, ge=4, le=8192, description="Longer examples are cut, in tokens.")


class JobSpec(Document):
    """A job as the user writes it (YAML or JSON)."""

    name: Annotated[str, StringConstraints(pattern=r"^[\w .:/@+-]{1,100}$")] = "job"
    base_model: ModelSource
    task: TaskName = "text-classification"
    dataset: DatasetSource
    metric: MetricName = Field(
        "accuracy",
        description="What accuracy constraints bound; default: the task's first.",
        json_schema_extra=_without_default,
    )
    constraints: Constraints = Constraints()
    focus: Focus = "speed"
    target: Target = Target()
    strategy: StrategyName = "axformer"
    approximations: tuple[ApproximationName, ...] = Field(
        APPROXIMATIONS, min_length=1, description="What may be done to the model; default: all."
    )
    fine_tune: bool | None = Field(
        None,
        description="Train the base on the task first; default: only if it has no trained head for it.",
    )
    baseline: BaselineOptions = BaselineOptions()
    recovery: TrainingOptions | Literal["off"] = Field(
        TrainingOptions(), description="Distillation after approximation; `off` for retraining-free."
    )
    budget: Budget = Budget()
    exports: tuple[ExportName, ...] = Field(("safetensors", "onnx"), min_length=1)
    metadata: dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ] = Field(default_factory=dict, max_length=16, description="Up to 16 pairs of your own.")
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="before")
    @classmethod
    def _metric_by_task(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "metric" in value:
            return value
        task: Any = value.get("task", "text-classification")
        return {**value, "metric": TASK_METRICS[task][0]} if task in TASKS else value

    @field_validator("recovery", mode="before")
    @classmethod
    def _off_in_yaml(cls, value: object) -> object:
        # YAML 1.1 reads a bare `off` as false.
        return "off" if value is False else value

    @field_validator("dataset")
    @classmethod
    def _columns_of_the_task(cls, value: DatasetSource, known: ValidationInfo) -> DatasetSource:
        parts = TASK_COLUMNS.get(known.data.get("task", ""))
        given = value.columns.model_dump(exclude_none=True)
        foreign = [name for name in given if parts is not None and name not in parts]
        if foreign:
            raise ValueError(
                f"columns.{foreign[0]} means nothing to task {known.data['task']}; "
                f"it reads {', '.join(parts or ())}"
            )
        return value

    @field_validator("metric")
    @classmethod
    def _metric_of_the_task(cls, value: MetricName, known: ValidationInfo) -> MetricName:
        metrics = TASK_METRICS.get(known.data.get("task", ""))
        if metrics is not None and value not in metrics:
            raise ValueError(f"task {known.data['task']} is scored by {', '.join(metrics)}")
        return value

    @field_validator("approximations", "exports")
    @classmethod
    def _no_repeats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({name for name in value if value.count(name) > 1})
        if repeated:
            raise ValueError(f"named twice: {', '.join(repeated)}")
        return value

    @model_validator(mode="after")
    def _target_is_exported(self) -> JobSpec:
        needed = {"onnxruntime": "onnx", "torch": "safetensors"}[self.target.runtime]
        if needed not in self.exports:
            raise ValueError(
                f"target.runtime {self.target.runtime} measures the {needed} export; add it to exports"
            )
        return self

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of what decides the result.

        Name and metadata do not, nor does how many workers share the work.
        """
        document = self.model_dump(
            mode="json", exclude={"name": True, "metadata": True, "budget": {"max_workers"}}
        )
        return hashlib.sha256(
            json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()
