"""How far a model's answers have moved from those that it gave before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from worker.engine.device import Device, Precision
from worker.engine.reporting import Reporter
from worker.engine.tasks.base import Task
from worker.engine.tasks.evaluate import affordable, answered
from worker.engine.tasks.split import Batch, Split


class Divergence:
    """Of a model, from itself as it was when this was made: what distillation would have to bring back.

    That is the mean over rows of the task's soft loss at temperature 1: for classes KL(before || now), for
    scores the squared difference. Labels are not asked: the loss of a model that is too sure of itself
    falls when anything is removed that makes it less so, whatever that does to its answers (Guo et al. 2017).
    Of answers that are very large (language models) the first rows are kept only. Raises Stopped.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Split,
        task: Task,
        *,
        device: Device,
        precision: Precision = "fp32",
        reporter: Reporter | None = None,
    ) -> None:
        self._model, self._task, self._device, self._precision = model, task, device, precision
        self._reporter = reporter
        few = affordable(len(rows), rows)
        self._rows = rows if few == len(rows) else rows.select(np.arange(few))
        self._before = [logits for _, logits in self._answered()]

    def now(self) -> float:
        """At least 0; 0 where all answers are the same."""
        total = 0.0
        for (batch, logits), before in zip(self._answered(), self._before, strict=True):
            total += len(batch.index) * float(self._task.soft_loss(logits, before, batch, 1.0))
        return total / len(self._rows)

    def _answered(self) -> Iterator[tuple[Batch, torch.Tensor]]:
        return answered(self._model, self._rows, self._device, self._precision, self._reporter)
