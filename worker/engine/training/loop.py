"""The training loop that fine-tuning and distillation share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from models.spec import metric_value
from worker.engine.device import Device
from worker.engine.reporting import Reporter, Stage
from worker.engine.tasks.base import Task
from worker.engine.tasks.evaluate import evaluate
from worker.engine.tasks.split import Batch, Split
from worker.engine.training.options import EpochRecord, FitOptions, FitResult
from worker.engine.training.vocabulary import CompactVocabulary

LossOfBatch = Callable[[Batch], torch.Tensor]
# The pace is judged once this many steps are behind, and again after every as many.
PACE_STEPS = 20
TINY_SECONDS = 1e-9
StoppedBy = Literal["epochs", "patience", "time"]


@dataclass
class _Best:
    """The weights of the best epoch so far, on the CPU."""

    metric: float = float("-inf")
    loss: float = float("inf")
    epoch: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def offer(self, model: nn.Module, record: EpochRecord) -> None:
        if (record.metric, -record.loss) > (self.metric, -self.loss):
            self.metric, self.loss, self.epoch = record.metric, record.loss, record.epoch
            self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}


class Pace:
    """Steps until the end: as `planned`, or as many as `max_seconds` allow by what steps take.

    The first `each_pass` steps may take longer, by what is only done once (see `after`).
    """

    def __init__(
        self, planned: int, max_seconds: float | None, warmup: float, *, each_pass: int | None = None
    ) -> None:
        self.planned = self.total = max(planned, 1)
        self.share_of_warmup = warmup
        self.warmup = self._warmup()
        self.max_seconds = max_seconds
        self.each_pass = each_pass or self.planned
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def out_of_time(self) -> bool:
        """Whether there are fewer steps than planned."""
        return self.total < self.planned

    def factor(self, step: int) -> float:
        """Learning rate of step `step` (from 0) as a share of its peak: linear up, linear down."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return max(0.0, (self.total - step) / max(1, self.total - self.warmup))

    def after(self, step: int, once: float = 0.0) -> None:
        """Judge the pace after `step` steps, so that the learning rate falls to zero when time is up.

        `once`: of the seconds so far, those that later passes will not take again.
        """
        if self.max_seconds is None:
            return
        used = self.seconds
        if used >= self.max_seconds:
            self.total = step
        elif step % PACE_STEPS == 0:
            self.total = min(self.planned, step + self._affordable(step, self.max_seconds - used, used, once))
            if step < self.warmup:
                self.warmup = max(step, self._warmup())

    def _affordable(self, step: int, left: float, used: float, once: float) -> int:
        """Steps that the seconds `left` allow."""
        usual = max(used - once, TINY_SECONDS) / step
        slow = min(max(0, self.each_pass - step), int(left / (usual + once / step)))
        return slow + int((left - slow * (usual + once / step)) / usual)

    def _warmup(self) -> int:
        return max(1, round(self.total * self.share_of_warmup))


@dataclass
class TrainingLoop:
    """One run over `train`, judged on `selection` after each epoch.

    `loss_of` is told a batch with ids of the full vocabulary's compact form and answers its mean loss.
    `dropout` trains with the model's dropout, else without. `once` tells the seconds spent so far on what is
    done once for each row, as working out a teacher's answers is.
    """

    model: PreTrainedModel
    train: Split
    selection: Split
    task: Task
    options: FitOptions
    device: Device
    reporter: Reporter
    stage: Stage
    epochs: int
    learning_rate: float
    loss_of: LossOfBatch
    dropout: bool = True
    message: str = "training"
    once: Callable[[], float] = lambda: 0.0

    def run(self) -> FitResult:
        """Train, and leave the best epoch's weights in the model. Raises Stopped."""
        self.model.to(self.device.torch_device)
        vocabulary = CompactVocabulary.of(self.model, self.train)
        with self.device.seeded(self.options.seed), vocabulary.compact():
            result, best = self._epochs(vocabulary)
        self.model.load_state_dict(best.weights)
        self.model.eval()
        return result

    def _epochs(self, vocabulary: CompactVocabulary) -> tuple[FitResult, _Best]:
        options = self.options
        optimizer = optimizer_of(self.model, self.learning_rate, options.weight_decay)
        steps_each = self.train.batch_count(options.batch_size)
        planned = self.epochs * steps_each
        pace = Pace(planned, options.max_seconds, options.warmup, each_pass=steps_each)
        self._once_before = self.once()
        best, history, step = _Best(), list[EpochRecord](), 0
        while step < pace.total and not self._out_of_patience(best, history):
            epoch = len(history) + 1
            step, train_loss = self._epoch(vocabulary.split, optimizer, pace, epoch, step)
            with vocabulary.expanded():
                record = self._judged(epoch, train_loss, pace)
                best.offer(self.model, record)
            history.append(record)
            self._tell(step, pace, loss=record.loss, metric=metric_value(self.options.metric, record.metric))
        stopped_by = "patience" if step < pace.total else "time" if pace.out_of_time else "epochs"
        result = FitResult(
            best_metric=best.metric,
            best_loss=best.loss,
            best_epoch=best.epoch,
            epochs=len(history),
            steps=step,
            seconds=pace.seconds,
            stopped_by=stopped_by,
            learning_rate=self.learning_rate,
            history=tuple(history),
        )
        return result, best

    def _epoch(
        self, split: Split, optimizer: torch.optim.Optimizer, pace: Pace, epoch: int, step: int
    ) -> tuple[int, float]:
        """One pass, or the part of it that the pace allows; steps done so far and the mean loss."""
        self.model.train(self.dropout)
        seed = self.options.seed * 10_007 + epoch
        first, total_loss = step, 0.0
        for batch in split.batches(self.options.batch_size, shuffle_seed=seed):
            self.reporter.check()
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * pace.factor(step)
            loss = self._step(batch, optimizer)
            total_loss += loss
            step += 1
            pace.after(step, self.once() - self._once_before)
            self._tell(step, pace, loss=loss)
            if step >= pace.total:
                break
        return step, total_loss / (step - first)

    def _step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
        with self.device.attention(batch.inputs["input_ids"].shape[1]):
            loss = self.loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _judged(self, epoch: int, train_loss: float, pace: Pace) -> EpochRecord:
        judged = evaluate(
            self.model,
            self.selection,
            self.task,
            device=self.device,
            precision=self.options.precision,
            reporter=self.reporter,
        )
        metric = judged.metrics[self.options.metric]
        return EpochRecord(epoch, train_loss, judged.loss, metric, pace.seconds)

    def _out_of_patience(self, best: _Best, history: list[EpochRecord]) -> bool:
        patience = self.options.patience
        return patience is not None and len(history) - best.epoch >= patience and bool(history)

    def _tell(self, step: int, pace: Pace, **metrics: float) -> None:
        self.reporter.progress(self.stage, step, pace.total, self.message, **metrics)


def optimizer_of(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Fused AdamW; no decay on biases, norms and embeddings (unused rows must stay as they are)."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim > 1 and id(parameter) not in embeddings]
    known = {id(parameter) for parameter in decayed}
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if id(parameter) not in known], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
