"""What both models say about the holdout: all scores, the per-class table, and the rows they differ on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.spec import metric_value
from worker.engine.tasks import Rows, Split, Task
from worker.engine.tasks.marks import ClassScores, Marks

REPORT_FILE = "holdout.json"
EXAMPLES = 200  # of each kind at most
LONGEST_TEXT = 2000  # characters of a text that is shown
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Answered:
    """The holdout as a model's tokenizer cuts it, and the model's logits on it, as `Scorer` takes them."""

    split: Split
    logits: Logits


def holdout_report(task: Task, dense: Answered, optimized: Answered) -> dict[str, Any]:
    """As JSON; both are of the same rows.

    Rows are counted from 0 in the order of the holdout, without those that lacked a part.
    `classes` has a line for each class, empty for tasks without; `right_to_wrong` are rows that the dense
    model answers rightly and the optimized one does not, `wrong_to_right` the reverse, with what was asked,
    what was expected, and what both answer.
    """
    rows = dense.split.source
    if rows is None:
        raise ValueError("a report needs the rows that the split was made of")
    before, after = (task.marks(model.logits, model.split) for model in (dense, optimized))
    held, kept = task.right(before), task.right(after)
    answers = task.answers(dense.logits, dense.split), task.answers(optimized.logits, optimized.split)
    return {
        "task": task.name,
        "rows": len(dense.split),
        "scores": {"dense": _scores(task, before), "optimized": _scores(task, after)},
        "classes": _classes(task, before, after, rows.labels),
        "right_to_wrong": _changed(task, rows, held & ~kept, answers),
        "wrong_to_right": _changed(task, rows, ~held & kept, answers),
    }


def _scores(task: Task, marks: Marks) -> dict[str, float]:
    return {name: metric_value(name, task.score(name, marks)) for name in task.metrics}


def _classes(task: Task, dense: Marks, optimized: Marks, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    pairs = zip(task.classes(dense, labels), task.classes(optimized, labels), strict=True)
    return [
        {"name": before.name, "rows": before.rows, "dense": _parts(before), "optimized": _parts(after)}
        for before, after in pairs
    ]


def _parts(scores: ClassScores) -> dict[str, float]:
    return {name: value for name, value in asdict(scores).items() if name not in ("name", "rows")}


def _changed(
    task: Task, rows: Rows, changed: NDArray[np.bool_], answers: tuple[list[Any], list[Any]]
) -> dict[str, Any]:
    index = np.flatnonzero(changed)
    chosen = rows.take(index[:EXAMPLES])
    told = zip(index[:EXAMPLES].tolist(), task.shown(chosen), task.expected(chosen), strict=True)
    return {
        "rows": len(index),
        "examples": [
            {
                "row": row,
                "asked": {name: _short(value) for name, value in asked.items()},
                "expected": expected,
                "dense": answers[0][row],
                "optimized": answers[1][row],
            }
            for row, asked, expected in told
        ],
    }


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return value[:LONGEST_TEXT] + "..."
    return value
