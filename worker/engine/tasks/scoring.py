"""The score of a job: its metric, on the rows of one split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.engine.tasks.base import Task
from worker.engine.tasks.marks import Marks
from worker.engine.tasks.split import Split


@dataclass(frozen=True)
class Scorer:
    """`metric` of `task` on `split`, for whoever has logits: (n, outputs), or (tokens, outputs) by token."""

    task: Task
    metric: str
    split: Split

    def __len__(self) -> int:
        return len(self.split)

    @property
    def outputs(self) -> int:
        """Rows that logits must have."""
        return len(self.split.ids if self.split.by_token else self.split)

    def marks(self, logits: NDArray[np.float32]) -> Marks:
        """What the answers on each row count for."""
        return self.task.marks(logits, self.split)

    def score(self, marks: Marks) -> float:
        """Of some rows; higher is better, see `metric_value`."""
        return self.task.score(self.metric, marks)

    def right(self, marks: Marks) -> NDArray[np.bool_] | None:
        """The rows of which the score is the share, or None where it is something else."""
        return self.task.right(marks) if self.task.is_share_of_right(self.metric) else None
