"""Parts that the losses of several tasks are made of. Shapes as in `tasks.base`."""

from __future__ import annotations

import torch
from torch.nn import functional

from worker.engine.tasks.split import Batch


def soft_loss(logits: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(teacher || student) at temperature T over the last dimension, mean over all others.

    Hinton et al. 2015, section 2.1. An outcome of minus infinity is impossible and costs nothing.
    """
    student = functional.log_softmax(logits / temperature, dim=-1).flatten(0, -2)
    teacher = functional.log_softmax(taught / temperature, dim=-1).flatten(0, -2)
    impossible = torch.isneginf(teacher)
    student, teacher = student.masked_fill(impossible, 0.0), teacher.masked_fill(impossible, 0.0)
    terms = (teacher.exp() * (teacher - student)).masked_fill(impossible, 0.0)
    return temperature**2 * terms.sum() / len(terms)


def mean_by_row(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Values of sequences (s,) as means over the sequences of each row, (b,)."""
    rows = batch.rows.to(values.device)
    sums = values.new_zeros(len(batch.index)).index_add(0, rows, values)
    counts = values.new_zeros(len(batch.index)).index_add(0, rows, torch.ones_like(values))
    return sums / counts
