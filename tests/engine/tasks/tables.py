"""Data sets in memory, read as a task reads them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from models.spec import Columns, TaskName
from worker.engine.tasks import TASKS, Rows, Task


def read(task: TaskName, rows: list[dict[str, Any]], **given: Any) -> tuple[Task, Columns, Rows]:
    """The columns that are found, and all rows with ids for labels."""
    table = pa.Table.from_pylist(rows)
    one = TASKS[task]
    columns = one.map_columns(table, Columns(**given))
    named = one.read(table, columns)
    complete = named.take(named.complete())
    return one, columns, one.numbered(complete, one.label_set(complete, table, columns), "training")
