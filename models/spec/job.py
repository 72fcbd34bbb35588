"""JobSpec: the one definition of a job, used by HTTP, worker, command line and engine."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from models.spec.base import Document
from models.spec.constraints import Budget, Constraints, Focus, Target
from models.spec.learned import LearnedOptions
from models.spec.significance import SignificanceOptions
from models.spec.sources import DatasetSource, ModelSource
from models.spec.tasks import (
    LOWER_IS_BETTER,
    TASK_COLUMNS,
    TASK_METRICS,
    TASKS,
    TORCH_EXPORT_TASKS,
    MetricName,
    TaskName,
)

StrategyName = Literal["axformer", "auto", "vtrans", "fast-vtrans", "faster-vtrans"]
LEARNED: tuple[StrategyName, ...] = ("vtrans", "fast-vtrans", "faster-vtrans")
"""Strategies that train masks; the first two train the weights with them."""
ApproximationName = Literal[
    "prune_layers",
    "prune_blocks",
    "prune_heads",
    "prune_weight_groups",
    "prune_hidden",
    "prune_vocabulary",
    "low_rank_embeddings",
    "low_rank_ffn",
    "hard_attention",
    "sign_matching_attention",
    "quantize",
]
ExportName = Literal["safetensors", "onnx", "torch_export"]
APPROXIMATIONS: tuple[ApproximationName, ...] = get_args(ApproximationName)
NATIVE_APPROXIMATIONS: frozenset[ApproximationName] = frozenset(
    {"prune_layers", "prune_weight_groups", "prune_vocabulary", "quantize"}
)
"""Those whose results a stock transformers class can hold; quantization changes the ONNX file alone."""
DEFAULT_APPROXIMATIONS: tuple[ApproximationName, ...] = tuple(
    name for name in APPROXIMATIONS if name != "sign_matching_attention"
)
"""All but sign matching, which costs time in both runtimes and which no published result asks for."""
MASKED_APPROXIMATIONS: tuple[ApproximationName, ...] = (
    "prune_layers",
    "prune_blocks",
    "prune_heads",
    "prune_weight_groups",
    "prune_hidden",
)
"""Those whose elements have masks that can be trained."""
NOT_OF_CAUSAL_LM: tuple[ApproximationName, ...] = ("prune_vocabulary",)


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


class GroupSizes(Document):
    """How many elements go together where single ones are too many to weigh.

    The default is a twelfth, rounded to a multiple of 32 where it is that large: widths that are multiples
    of what processors multiply at once waste nothing.
    """

    ffn: int | None = Field(
        None, ge=1, le=65536, description="Channels of a weight group; default: a twelfth of the layer's."
    )
    hidden: int | None = Field(
        None, ge=1, le=65536, description="Dimensions of a hidden group; default: a twelfth of the width."
    )


Schedule = Literal["auto", "one_shot", "gradual"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


class RecoveryOptions(TrainingOptions):
    """Distillation of the approximated model from the dense one."""

    schedule: Schedule = Field(
        "auto",
        description="`one_shot` trains the structure that the search ends with; `gradual` comes to it in "
        "steps and trains after each; `auto` is gradual where much has to go and time allows it.",
    )
    attention: float = Field(
        0.0, ge=0.0, le=1000.0, description="Weight of the attention maps in the loss; 0 leaves them out."
    )


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
    learned: LearnedOptions = LearnedOptions()  # before `strategy`, which looks at it
    strategy: StrategyName = "axformer"
    significance: SignificanceOptions = SignificanceOptions()
    approximations: tuple[ApproximationName, ...] = Field(
        DEFAULT_APPROXIMATIONS,
        min_length=1,
        description="What may be done to the model; default: all that go with the task but "
        "sign_matching_attention.",
    )
    group_sizes: GroupSizes = GroupSizes()
    fine_tune: bool | None = Field(
        None,
        description="Train the base on the task first; default: only if it has no trained head for it.",
    )
    baseline: BaselineOptions = BaselineOptions()
    recovery: RecoveryOptions | Literal["off", "reconstruct"] = Field(
        RecoveryOptions(),
        description="Distillation after approximation. A schedule's name alone stands for these options "
        "with that schedule. Retraining-free: `off`, or `reconstruct`, which solves the weights that are "
        "left anew by least squares.",
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

    @model_validator(mode="before")
    @classmethod
    def _approximations_by_task(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "approximations" in value or value.get("task") != "causal-lm":
            return value
        return {
            **value,
            "approximations": [each for each in DEFAULT_APPROXIMATIONS if each not in NOT_OF_CAUSAL_LM],
        }

    @field_validator("recovery", mode="before")
    @classmethod
    def _in_a_word(cls, value: object) -> object:
        if value is False:  # YAML 1.1 reads a bare `off` so
            return "off"
        return {"schedule": value} if value in SCHEDULES else value

    @field_validator("recovery")
    @classmethod
    def _maps_of_the_task(
        cls, value: RecoveryOptions | Literal["off", "reconstruct"], known: ValidationInfo
    ) -> RecoveryOptions | Literal["off", "reconstruct"]:
        if isinstance(value, RecoveryOptions) and value.attention and known.data.get("task") == "causal-lm":
            raise ValueError(
                "recovery.attention does not go with task causal-lm: attention maps are those of tokens that "
                "see all others; leave it out"
            )
        return value

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

    @field_validator("strategy")
    @classmethod
    def _something_to_aim_at(cls, value: StrategyName, known: ValidationInfo) -> StrategyName:
        constraints, learned = known.data.get("constraints"), known.data.get("learned")
        if value not in LEARNED or constraints is None or learned is None:
            return value
        if learned.target is None and not constraints.bounds_costs:
            raise ValueError(
                f"strategy {value} trains masks towards a bound on costs; give constraints.speed, "
                "constraints.size or learned.target"
            )
        if constraints.loadable == "native":
            raise ValueError(
                f"strategy {value} leaves FFNs of several widths, which constraints.loadable native forbids; "
                "leave that out or take strategy axformer"
            )
        return value

    @field_validator("recovery")
    @classmethod
    def _training_of_the_strategy(
        cls, value: RecoveryOptions | Literal["off", "reconstruct"], known: ValidationInfo
    ) -> RecoveryOptions | Literal["off", "reconstruct"]:
        strategy = known.data.get("strategy")
        if strategy in LEARNED[:2] and not isinstance(value, RecoveryOptions):
            raise ValueError(
                f"strategy {strategy} trains weights, which recovery {value} forbids; take strategy "
                "faster-vtrans, which trains masks only, or leave recovery out"
            )
        return value

    @field_validator("metric")
    @classmethod
    def _metric_of_the_task(cls, value: MetricName, known: ValidationInfo) -> MetricName:
        metrics = TASK_METRICS.get(known.data.get("task", ""))
        if metrics is not None and value not in metrics:
            raise ValueError(f"task {known.data['task']} is scored by {', '.join(metrics)}")
        return value

    @field_validator("approximations")
    @classmethod
    def _approximations_of_the_task(
        cls, value: tuple[ApproximationName, ...], known: ValidationInfo
    ) -> tuple[ApproximationName, ...]:
        foreign = [name for name in value if name in NOT_OF_CAUSAL_LM]
        if foreign and known.data.get("task") == "causal-lm":
            raise ValueError(
                f"{foreign[0]} does not go with task causal-lm: perplexities of models that cut texts into "
                "other tokens cannot be compared, and a language model must be able to write any of them"
            )
        return value

    @field_validator("approximations")
    @classmethod
    def _approximations_of_the_strategy(
        cls, value: tuple[ApproximationName, ...], known: ValidationInfo
    ) -> tuple[ApproximationName, ...]:
        strategy = known.data.get("strategy")
        if strategy in LEARNED and not set(MASKED_APPROXIMATIONS) & set(value):
            raise ValueError(
                f"strategy {strategy} trains masks and needs one of {', '.join(MASKED_APPROXIMATIONS)}"
            )
        return value

    @field_validator("constraints")
    @classmethod
    def _bound_of_the_metric(cls, value: Constraints, known: ValidationInfo) -> Constraints:
        metric, accuracy = known.data.get("metric"), value.accuracy
        wrong, right = ("min", "max") if metric in LOWER_IS_BETTER else ("max", "min")
        if metric is not None and getattr(accuracy, wrong) is not None:
            raise ValueError(
                f"accuracy.{wrong} bounds nothing that metric {metric} has; give accuracy.{right}"
            )
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

    @model_validator(mode="after")
    def _native_is_possible(self) -> JobSpec:
        if self.constraints.loadable != "native":
            return self
        if "safetensors" not in self.exports:
            raise ValueError("constraints.loadable native is about the safetensors export; add it to exports")
        if not NATIVE_APPROXIMATIONS & set(self.approximations):
            raise ValueError(
                "constraints.loadable native allows none of these approximations, only "
                + ", ".join(sorted(NATIVE_APPROXIMATIONS))
            )
        return self

    @model_validator(mode="after")
    def _task_has_the_export(self) -> JobSpec:
        if "torch_export" in self.exports and self.task not in TORCH_EXPORT_TASKS:
            raise ValueError(
                f"there is no torch_export of task {self.task}; it is written for "
                f"{', '.join(TORCH_EXPORT_TASKS)}"
            )
        return self

    @property
    def bounds_speed(self) -> bool:
        """Whether anything is asked of the model's time."""
        return any(self.constraints.speed.model_dump(exclude={"percentile"}).values())

    @property
    def wants_int8(self) -> bool:
        """Whether weights in int8 are worth something on the target, if `quantize` is allowed.

        In torch they save bytes and no time: they are for those there who ask for size alone.
        """
        if self.target.runtime == "onnxruntime":
            return True
        return self.target.device == "cpu" and self.focus == "size" and not self.bounds_speed

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
