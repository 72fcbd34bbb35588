"""Any number of labels for a text or a pair of texts, each by itself yes or no."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.spec import Columns, TaskName
from worker.engine.errors import LabelError
from worker.engine.tasks.columns import (
    check_given,
    check_parts,
    column_error,
    is_list_of,
    is_text,
    map_text_columns,
    map_texts,
)
from worker.engine.tasks.labels import POINTER, hub_label_order, in_order, label_list_ids, label_lists
from worker.engine.tasks.losses import soft_loss
from worker.engine.tasks.marks import ClassScores, Marks, class_scores, ratio
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Batch, Split
from worker.engine.tasks.texts import TextTask

NAMES = ("label", "labels", "tags", "topics", "categories", "genres", "emotions", "intents", "classes")


class MultiLabelClassification(TextTask):
    """Binary cross-entropy of every label, mean over labels; a label is answered from a logit of 0 upwards.

    Labels come as a list in one column, or as columns of 0 and 1. Marks are the labels answered and then
    the right ones, (n, 2 * classes).
    """

    name: ClassVar[TaskName] = "multi-label-classification"
    problem_type: ClassVar[str | None] = "multi_label_classification"

    def map_columns(self, table: pa.Table, given: Columns) -> Columns:
        check_given(table, given)
        if given.labels is None:
            label = given.label or _guess_list(table)
            if label is not None:
                return map_text_columns(table, given, label)
        labels = given.labels or _guess_flags(table)
        text, pair = map_texts(table, given, taken=labels)
        check_parts(table, [*(name for name in (text, pair) if name is not None), *labels])
        return Columns(text=text, text_pair=pair, labels=labels)

    def label_columns(self, columns: Columns) -> list[str]:
        return [str(columns.label)] if columns.labels is None else list(columns.labels)

    def labels_of(self, table: pa.Table, columns: Columns) -> list[list[str] | None]:
        if columns.labels is None:
            return label_lists(table, str(columns.label))
        flags = [_flags(table, name) for name in columns.labels]
        return [
            None
            if any(flag is None for flag in row)
            else [name for name, flag in zip(columns.labels, row, strict=True) if flag]
            for row in zip(*flags, strict=True)
        ]

    def label_set(self, rows: Rows, table: pa.Table, columns: Columns) -> tuple[str, ...]:
        present = {name for names in rows["label"] for name in names}
        if len(present) < 2:
            raise LabelError(
                f"the training rows have {len(present)} different labels; at least two are needed",
                remedy="give training rows with more labels, or name another label column",
                pointer=POINTER,
            )
        if len(present) > max(2, len(rows) // 2):
            raise LabelError(
                f"the {len(rows)} training rows have {len(present)} different labels, too many to learn",
                remedy="name the column that holds the labels in dataset.columns.label",
                pointer=POINTER,
            )
        if columns.labels is not None:
            return columns.labels
        return in_order(present, hub_label_order(table, str(columns.label)))

    def numbered(self, rows: Rows, labels: tuple[str, ...], split: str) -> Rows:
        return rows.with_part("label", label_list_ids(rows["label"], labels, split), labels)

    def strata(self, rows: Rows) -> NDArray[np.int64]:
        """A row counts for the rarest of its labels; rows without any are a class of their own."""
        counts = np.bincount([place for row in rows["label"] for place in row], minlength=len(rows.labels))
        return np.array([min(row, key=lambda place: counts[place], default=-1) for row in rows["label"]])

    def targets(self, rows: Rows) -> NDArray[Any]:
        targets = np.zeros((len(rows), len(rows.labels)), dtype=np.int64)
        for at, row in enumerate(rows["label"]):
            targets[at, row] = 1
        return targets

    def losses(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        targets = batch.labels.to(logits.device, torch.float32)
        return functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(1)

    def soft_loss(
        self, logits: torch.Tensor, taught: torch.Tensor, batch: Batch, temperature: float
    ) -> torch.Tensor:
        return soft_loss(_yes_and_no(logits), _yes_and_no(taught), temperature)

    def marks(self, logits: NDArray[np.float32], split: Split) -> Marks:
        return Marks(np.concatenate([logits >= 0, split.labels], axis=1, dtype=np.float64), logits.shape[1])

    def score(self, name: str, marks: Marks) -> float:
        if name == "accuracy":
            return float(self.right(marks).mean())
        hits, answered, held = _counts(marks)
        if name == "f1_micro":
            return float(ratio(2 * hits.sum(keepdims=True), (answered + held).sum(keepdims=True))[0])
        return float(ratio(2 * hits, answered + held).mean())

    def right(self, marks: Marks) -> NDArray[np.bool_]:
        """Rows of which every label is answered as it is (scikit-learn's subset accuracy)."""
        answered, held = np.split(marks.values, 2, axis=1)
        return np.asarray((answered == held).all(axis=1))

    def is_share_of_right(self, name: str) -> bool:
        return name == "accuracy"

    def classes(self, marks: Marks, labels: tuple[str, ...]) -> list[ClassScores]:
        return class_scores(labels, *_counts(marks))

    def answers(self, logits: NDArray[np.float32], split: Split) -> list[list[str]]:
        names = split.source.labels if split.source is not None else range(logits.shape[1])
        return [[str(names[place]) for place in np.flatnonzero(row >= 0)] for row in logits]

    def expected(self, rows: Rows) -> list[list[str]]:
        return [[rows.labels[place] for place in sorted(row)] for row in rows["label"]]


def _guess_list(table: pa.Table) -> str | None:
    """The column of lists that is called like labels, else the only one of lists."""
    lists = [field.name for field in table.schema if is_list_of(field.type, _names_labels)]
    known = [name for name in lists if name.lower() in NAMES]
    found = known or lists
    if len(found) > 1:
        raise column_error(f"{' and '.join(found)} would both do as the labels", "label", table.column_names)
    return found[0] if found else None


def _names_labels(kind: pa.DataType) -> bool:
    return is_text(kind) or bool(pa.types.is_integer(kind))


def _guess_flags(table: pa.Table) -> tuple[str, ...]:
    """All columns of nothing but 0 and 1."""
    found = tuple(field.name for field in table.schema if _is_flags(table.column(field.name)))
    if len(found) < 2:
        raise column_error(
            "no column holds lists of labels, and fewer than two hold 0 and 1", "labels", table.column_names
        )
    return found


def _is_flags(column: pa.ChunkedArray) -> bool:
    kind = column.type
    if pa.types.is_boolean(kind):
        return True
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)) or column.null_count == len(column):
        return False
    return set(pc.unique(column.drop_null()).to_pylist()) <= {0, 1}


def _flags(table: pa.Table, name: str) -> list[bool | None]:
    column = table.column(name)
    if not _is_flags(column):
        raise LabelError(
            f"column {name!r} holds something else than 0 and 1",
            remedy="give columns of 0 and 1 in dataset.columns.labels, or one column of lists in "
            "dataset.columns.label",
            pointer="/dataset/columns/labels",
        )
    return [None if value is None else bool(value) for value in column.to_pylist()]


def _counts(marks: Marks) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each label, (classes,): answered rightly, answered, held."""
    answered, held = np.split(marks.values, 2, axis=1)
    return (answered * held).sum(axis=0), answered.sum(axis=0), held.sum(axis=0)


def _yes_and_no(logits: torch.Tensor) -> torch.Tensor:
    """The logits of two outcomes whose softmax is the sigmoid: (..., 2)."""
    return torch.stack((torch.zeros_like(logits), logits), dim=-1)
