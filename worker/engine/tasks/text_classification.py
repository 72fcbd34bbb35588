"""One label for a text or for a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from models.spec import Columns, TaskName
from worker.engine.tasks.columns import map_text_columns
from worker.engine.tasks.labels import hub_label_order, label_ids, label_names, label_set
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.single_label import SingleLabelTask
from worker.engine.tasks.texts import TextTask

WITHHELD = "-1"  # the hub's sign for a label that is not told


class TextClassification(TextTask, SingleLabelTask):
    name: ClassVar[TaskName] = "text-classification"
    problem_type: ClassVar[str | None] = "single_label_classification"

    def map_columns(self, table: pa.Table, given: Columns) -> Columns:
        return map_text_columns(table, given)

    def labels_of(self, table: pa.Table, columns: Columns) -> list[str | None]:
        return label_names(table, str(columns.label))

    def label_set(self, rows: Rows, table: pa.Table, columns: Columns) -> tuple[str, ...]:
        return label_set(rows["label"], hub_label_order(table, str(columns.label)))

    def numbered(self, rows: Rows, labels: tuple[str, ...], split: str) -> Rows:
        return rows.with_part("label", label_ids(rows["label"], labels, split).tolist(), labels)

    def withheld(self, rows: Rows, known: Sequence[str]) -> Rows:
        if WITHHELD in known:
            return rows
        return rows.with_part("label", [None if name == WITHHELD else name for name in rows["label"]])
