"""What a task is to the engine: how columns become rows and tokens, and how answers are judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from models.spec import TASK_METRICS, Columns, MetricName, TaskName
from worker.engine.anatomy.heads import HeadKind
from worker.engine.tasks.marks import ClassScores, Marks
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Batch, Split


class Task(ABC):
    """Stateless; one instance in `TASKS` serves every run.

    `head` is what the model needs to answer, `problem_type` what transformers calls its loss, where it has a
    name for it.
    """

    name: ClassVar[TaskName]
    head: ClassVar[HeadKind]
    notes: ClassVar[tuple[str, ...]] = ()
    """What the certificate's figures mean for this task, where that is not obvious."""
    disturbs: ClassVar[bool] = True
    """Whether a student may also learn from disturbed copies of the training rows."""
    problem_type: ClassVar[str | None] = None
    gives_logits: ClassVar[bool] = True
    """Whether outputs are logits, of which a temperature makes other probabilities and the same answers."""

    @property
    def metrics(self) -> tuple[MetricName, ...]:
        """What the task is scored by, the default first."""
        return TASK_METRICS[self.name]

    # From the columns of a table to rows.

    @abstractmethod
    def map_columns(self, table: pa.Table, given: Columns) -> Columns:
        """The columns that play the task's parts: as given, else guessed. Raises ColumnError."""

    def label_columns(self, columns: Columns) -> list[str]:
        """The columns without which a split has no labels."""
        return [str(columns.label)]

    @abstractmethod
    def read(self, table: pa.Table, columns: Columns) -> Rows:
        """All rows; a part that is missing in a row is None. Part `label` holds names, or what is to be said.

        Raises ColumnError and LabelError where a column holds something else than its part.
        """

    @abstractmethod
    def label_set(self, rows: Rows, table: pa.Table, columns: Columns) -> tuple[str, ...]:
        """What the labels of the training `rows`, read from `table`, are, in the order of the outputs.

        Raises LabelError where they make no task.
        """

    @abstractmethod
    def numbered(self, rows: Rows, labels: tuple[str, ...], split: str) -> Rows:
        """Complete rows with ids for labels. Raises LabelError naming what `labels` does not have."""

    def has_labels(self, rows: Rows) -> bool:
        """Whether any of the rows says what the right answer is."""
        return any(label is not None for label in rows["label"])

    def withheld(self, rows: Rows, known: Sequence[str]) -> Rows:
        """Rows of a holdout whose labels are None where their form says that they are withheld."""
        return rows

    def check_metric(self, labels: tuple[str, ...], metric: MetricName) -> None:
        """Raise LabelError where the labels are not of the form that the metric needs."""
        return None

    @abstractmethod
    def strata(self, rows: Rows) -> NDArray[np.int64]:
        """The class of each numbered row that splits keep in proportion, (n,)."""

    @abstractmethod
    def texts(self, rows: Rows) -> list[str]:
        """What identifies each row: rows of the same text are never on two sides of a split."""

    # From rows to tokens, and from logits to losses.

    @abstractmethod
    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Split:
        """Rows as token ids, in sequences of `max_length` tokens at most (special tokens included)."""

    def kept(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What is kept of a batch's logits, to judge by: all of them, where they are not too many."""
        return logits

    @abstractmethod
    def losses(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of each row of a batch, (b,), in fp32. `logits` as `heads.logits_of` gives them."""

    @abstractmethod
    def soft_loss(
        self, logits: torch.Tensor, taught: torch.Tensor, batch: Batch, temperature: float
    ) -> torch.Tensor:
        """How far a batch's logits are from a teacher's of the same shape: a scalar, mean over rows."""

    # From logits to scores. Here logits are those of a whole split, as far as they are `kept`: (n, outputs),
    # or (tokens, outputs) for heads that answer by token.

    @abstractmethod
    def answers(self, logits: NDArray[np.float32], split: Split) -> list[Any]:
        """What the model says about each row, as JSON that people read."""

    @abstractmethod
    def marks(self, logits: NDArray[np.float32], split: Split) -> Marks:
        """What the answers on each row count for."""

    @abstractmethod
    def score(self, name: str, marks: Marks) -> float:
        """Score `name` (one of `metrics`) of some rows; higher is better: `metric_value` tells people."""

    @abstractmethod
    def right(self, marks: Marks) -> NDArray[np.bool_]:
        """Whether each row was answered rightly, (n,)."""

    def classes(self, marks: Marks, labels: tuple[str, ...]) -> list[ClassScores]:
        """The per-class table; empty for tasks without classes."""
        return []

    @abstractmethod
    def expected(self, rows: Rows) -> list[Any]:
        """What should be said about each row, in the form of `answers`."""

    @abstractmethod
    def shown(self, rows: Rows) -> list[dict[str, Any]]:
        """What each row asks, for people."""

    def is_share_of_right(self, name: str) -> bool:
        """Whether score `name` is the share of rows that are `right`."""
        return False
