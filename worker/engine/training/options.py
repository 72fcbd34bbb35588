"""What training may be told, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.engine.device import Precision


@dataclass(frozen=True)
class FitOptions:
    """Options of `fine_tune` and `distil`; None means a default by data size or model width.

    epochs: at most. patience: epochs without a better selection score before it ends; None never.
    warmup: share of all steps. max_seconds: the run plans its steps to end within it, evaluation
    included. metric: the task's score that chooses the best epoch (ties: the lower loss).
    """

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int = 32
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    patience: int | None = 3
    metric: str = "accuracy"
    precision: Precision = "fast"
    max_seconds: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class DistilOptions(FitOptions):
    """Weights of the parts of the distillation loss; see `distil`.

    temperature softens both outputs; soft and hard weigh the teacher's outputs and the labels; hidden
    weighs the hidden states, attention the attention maps.
    """

    temperature: float = 2.0
    soft: float = 0.9
    hard: float = 0.1
    hidden: float = 1.0
    attention: float = 0.0


@dataclass(frozen=True)
class EpochRecord:
    """Selection split after an epoch; `train_loss` is the mean over its steps; `metric`: more is better."""

    epoch: int
    train_loss: float
    loss: float
    metric: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """The model holds the weights of the epoch with `best_metric` when this is returned.

    `stopped_by`: epochs (all done), patience, or time.
    """

    best_metric: float
    best_loss: float
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    stopped_by: str
    learning_rate: float
    history: tuple[EpochRecord, ...] = field(default=())
