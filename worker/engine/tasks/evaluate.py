"""A model's losses, logits and scores on a split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.engine.anatomy.heads import logits_of
from worker.engine.device import Device, Precision
from worker.engine.reporting import Reporter
from worker.engine.tasks.base import Task
from worker.engine.tasks.split import Batch, Split

LOGITS_BYTES = 256 << 20


@dataclass(frozen=True)
class Evaluation:
    """In split order: `losses` (n,), and `logits` (n, outputs), or (tokens, outputs) of heads that answer by
    token, as far as the task keeps them; `loss` is the mean over rows. `metrics`: higher is better."""

    loss: float
    losses: NDArray[np.float32]
    logits: NDArray[np.float32]
    metrics: dict[str, float]


def evaluate(
    model: nn.Module,
    split: Split,
    task: Task,
    *,
    device: Device,
    precision: Precision = "fp32",
    reporter: Reporter | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Run `model` over all of `split`; rows of like length share a batch, results keep split order.

    There are as many as the device evaluates fastest, unless a `batch_size` is given.
    The model is put on the device and left in the mode (train or eval) that it was in.
    Raises Stopped between batches when `reporter` says so.
    """
    logits: NDArray[np.float32] | None = None
    losses = np.empty(len(split), dtype=np.float32)
    for batch, output in answered(model, split, device, precision, reporter, batch_size):
        part = unpadded(task.kept(output, batch), batch).numpy()
        if logits is None:
            logits = np.empty((len(split.ids if split.by_token else split), part.shape[1]), dtype=np.float32)
        logits[split.flat_positions(batch.index) if split.by_token else batch.index] = part
        losses[batch.index] = task.losses(output, batch).numpy()
    assert logits is not None
    marks = task.marks(logits, split)
    scores = {str(name): task.score(name, marks) for name in task.metrics}
    return Evaluation(float(losses.mean(dtype=np.float64)), losses, logits, scores)


@torch.no_grad()
def answered(
    model: nn.Module,
    split: Split,
    device: Device,
    precision: Precision = "fp32",
    reporter: Reporter | None = None,
    batch_size: int | None = None,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Each batch of the split with the model's logits in fp32, on the CPU; as `evaluate` does it."""
    if not len(split):
        raise ValueError("the split has no rows")
    model.to(device.torch_device)
    was_training = model.training
    model.eval()
    for batch in split.batches(together(split, device, batch_size)):
        if reporter is not None:
            reporter.check()
        with device.autocast(precision):
            output = logits_of(model(**device.put(batch.inputs)))
        yield batch, output.float().cpu()
    model.train(was_training)


def together(split: Split, device: Device, batch_size: int | None = None) -> int:
    """How many rows are evaluated in one batch: as given, or as is fastest, as far as affordable."""
    return affordable(batch_size or device.rows_together(float(split.lengths.mean())), split)


def affordable(batch_size: int, split: Split) -> int:
    """The batch size, or less where the logits of so many rows would take more than `LOGITS_BYTES`."""
    row_bytes = 4 * split.token_outputs * int(split.lengths.max())
    return max(1, min(batch_size, LOGITS_BYTES // max(1, row_bytes)))


def unpadded(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Logits of a batch as a split keeps them: those by token without padding, (tokens, outputs)."""
    return logits[batch.mask.to(logits.device)] if logits.dim() == 3 else logits
