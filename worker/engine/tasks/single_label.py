"""What all tasks have in common that answer with one of several classes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from worker.engine.tasks.base import Task
from worker.engine.tasks.losses import soft_loss
from worker.engine.tasks.marks import ClassScores, Marks, class_scores
from worker.engine.tasks.metrics import METRICS, confusion_matrix
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Batch, Split


class SingleLabelTask(Task):
    """Cross-entropy over the outputs. Marks are the class answered and the right one."""

    def losses(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(logits.float(), batch.labels.to(logits.device), reduction="none")

    def soft_loss(
        self, logits: torch.Tensor, taught: torch.Tensor, batch: Batch, temperature: float
    ) -> torch.Tensor:
        return soft_loss(logits, taught, temperature)

    def strata(self, rows: Rows) -> NDArray[np.int64]:
        return np.asarray(rows["label"], dtype=np.int64)

    def marks(self, logits: NDArray[np.float32], split: Split) -> Marks:
        return Marks(np.stack([logits.argmax(axis=1), split.labels], axis=1), logits.shape[1])

    def score(self, name: str, marks: Marks) -> float:
        return METRICS[name](_confusion(marks))

    def right(self, marks: Marks) -> NDArray[np.bool_]:
        return np.asarray(marks.values[:, 0] == marks.values[:, 1])

    def classes(self, marks: Marks, labels: tuple[str, ...]) -> list[ClassScores]:
        counts = _confusion(marks).astype(np.float64)
        return class_scores(labels, np.diag(counts), counts.sum(axis=0), counts.sum(axis=1))

    def answers(self, logits: NDArray[np.float32], split: Split) -> list[str]:
        names = split.source.labels if split.source is not None else ()
        return [names[place] if names else str(place) for place in logits.argmax(axis=1)]

    def expected(self, rows: Rows) -> list[str]:
        return [rows.labels[place] for place in rows["label"]]

    def is_share_of_right(self, name: str) -> bool:
        return name == "accuracy"


def _confusion(marks: Marks) -> NDArray[np.int64]:
    predicted, labels = marks.values.astype(np.int64).T
    return confusion_matrix(predicted, labels, marks.classes)
