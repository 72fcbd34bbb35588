"""A score for a text or a pair of texts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy import stats
from torch.nn import functional

from models.spec import Columns, TaskName
from worker.engine.errors import LabelError
from worker.engine.tasks.columns import check_given, guess_column, map_text_columns
from worker.engine.tasks.labels import POINTER
from worker.engine.tasks.marks import Marks
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Batch, Split
from worker.engine.tasks.texts import TextTask

SCORE_NAMES = (("label", "labels", "score"), ("similarity", "similarity_score", "rating", "target", "value"))
STRATA = 10
LARGEST = 100.0  # what an output that begins near zero can be taught
RIGHT_WITHIN = 0.5  # standard deviations of the scores


class Regression(TextTask):
    """Mean squared error of one output. Marks are the score answered and the right one."""

    name: ClassVar[TaskName] = "regression"
    problem_type: ClassVar[str | None] = "regression"
    gives_logits: ClassVar[bool] = False

    def map_columns(self, table: pa.Table, given: Columns) -> Columns:
        check_given(table, given)
        label = given.label or guess_column(table, "label", SCORE_NAMES, _is_number, "scores")
        return map_text_columns(table, given, label)

    def labels_of(self, table: pa.Table, columns: Columns) -> list[float | None]:
        kind = table.schema.field(str(columns.label)).type
        if not _is_number(kind):
            raise LabelError(
                f"column {columns.label!r} holds values of type {kind}, not scores",
                remedy="name a column of numbers in dataset.columns.label, or set task: text-classification",
                pointer=POINTER,
            )
        values = table.column(str(columns.label)).to_pylist()
        return [float(value) if value is not None and np.isfinite(value) else None for value in values]

    def label_set(self, rows: Rows, table: pa.Table, columns: Columns) -> tuple[str, ...]:
        """The name of the one output."""
        scores = np.asarray(rows["label"], dtype=np.float64)
        if np.ptp(scores) == 0:
            raise LabelError(
                f"all training rows have the score {scores[0]:g}",
                remedy="give training rows of different scores, or name another column",
                pointer=POINTER,
            )
        if np.abs(scores).max() > LARGEST:
            raise LabelError(
                f"scores of up to {np.abs(scores).max():g} are too large to be learnt as they are",
                remedy=f"shift and scale the scores so that they lie between -{LARGEST:g} and {LARGEST:g}",
                pointer=POINTER,
            )
        return (str(columns.label),)

    def numbered(self, rows: Rows, labels: tuple[str, ...], split: str) -> Rows:
        return rows.with_part("label", list(rows["label"]), labels)

    def strata(self, rows: Rows) -> NDArray[np.int64]:
        """Tenths of the rows by score."""
        scores = np.asarray(rows["label"], dtype=np.float64)
        bounds = np.unique(np.quantile(scores, np.linspace(0, 1, STRATA + 1)[1:-1]))
        return np.searchsorted(bounds, scores, side="right").astype(np.int64)

    def targets(self, rows: Rows) -> NDArray[Any]:
        return np.asarray(rows["label"], dtype=np.float32)

    def losses(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        targets = batch.labels.to(logits.device, torch.float32)
        return functional.mse_loss(logits.float().squeeze(1), targets, reduction="none")

    def soft_loss(
        self, logits: torch.Tensor, taught: torch.Tensor, batch: Batch, temperature: float
    ) -> torch.Tensor:
        return functional.mse_loss(logits, taught)

    def marks(self, logits: NDArray[np.float32], split: Split) -> Marks:
        return Marks(np.stack([logits[:, 0], split.labels], axis=1).astype(np.float64))

    def score(self, name: str, marks: Marks) -> float:
        """0 where a correlation is not defined, because all answers or all scores are the same."""
        answered, held = marks.values.T
        if name == "r2":
            spread = np.square(held - held.mean()).sum()
            return float(1 - np.square(held - answered).sum() / spread) if spread > 0 else 0.0
        if np.ptp(answered) == 0 or np.ptp(held) == 0:
            return 0.0
        correlation = stats.pearsonr if name == "pearson" else stats.spearmanr
        return float(correlation(answered, held).statistic)

    def right(self, marks: Marks) -> NDArray[np.bool_]:
        """Within half a standard deviation of the scores."""
        answered, held = marks.values.T
        return np.asarray(np.abs(answered - held) <= RIGHT_WITHIN * held.std())

    def answers(self, logits: NDArray[np.float32], split: Split) -> list[float]:
        return [round(float(value), 4) for value in logits[:, 0]]

    def expected(self, rows: Rows) -> list[float]:
        return [float(value) for value in rows["label"]]


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
