"""A model's losses, logits and scores on a split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.engine.device import Device, Precision
from worker.engine.reporting import Reporter
from worker.engine.tasks.base import Task
from worker.engine.tasks.split import Split


@dataclass(frozen=True)
class Evaluation:
    """In split order: `losses` (n,) and `logits` (n, outputs); `loss` is the mean over samples."""

    loss: float
    losses: NDArray[np.float32]
    logits: NDArray[np.float32]
    metrics: dict[str, float]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    task: Task,
    *,
    batch_size: int,
    device: Device,
    precision: Precision = "fp32",
    reporter: Reporter | None = None,
) -> Evaluation:
    """Run `model` over all of `split`; rows of like length share a batch, results keep split order.

    The model is put on the device and left in the mode (train or eval) that it was in.
    Raises Stopped between batches when `reporter` says so.
    """
    model.to(device.torch_device)
    was_training = model.training
    model.eval()
    logits: NDArray[np.float32] | None = None
    for batch in split.batches(batch_size):
        if reporter is not None:
            reporter.check()
        with device.autocast(precision):
            output = model(**device.put(batch.inputs)).logits
        part = output.float().cpu().numpy()
        if logits is None:
            logits = np.empty((len(split), part.shape[1]), dtype=np.float32)
        logits[batch.index] = part
    model.train(was_training)
    if logits is None:
        raise ValueError("the split has no rows")
    losses = task.losses(torch.from_numpy(logits), torch.from_numpy(split.labels)).numpy()
    scores = {name: task.metric(name, logits, split.labels) for name in task.metrics}
    return Evaluation(float(losses.mean(dtype=np.float64)), losses, logits, scores)
