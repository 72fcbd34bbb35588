"""The report on the holdout: scores, classes, and the rows that the two models disagree on."""

from __future__ import annotations

import numpy as np

from worker.engine.measure.holdout_report import EXAMPLES, LONGEST_TEXT, holdout_report
from worker.engine.tasks import TASKS, Rows, Split

TASK = TASKS["text-classification"]


def split_of(labels: list[int], texts: list[str] | None = None) -> Split:
    rows = len(labels)
    source = Rows({"text": texts or [f"text {n}" for n in range(rows)], "label": labels}, ("no", "yes"))
    ids = np.ones(rows, dtype=np.int64)
    return Split(ids, np.arange(rows + 1), np.array(labels), pad_id=0, source=source)


def logits(*answers: int) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[list(answers)]


def test_who_was_right_and_is_no_more_and_back() -> None:
    report = holdout_report(TASK, split_of([0, 1, 1, 0]), logits(0, 1, 0, 1), logits(0, 0, 1, 1))
    assert report["rows"] == 4
    assert report["scores"]["dense"]["accuracy"] == report["scores"]["optimized"]["accuracy"] == 0.5
    assert report["right_to_wrong"] == {
        "rows": 1,
        "examples": [
            {"row": 1, "asked": {"text": "text 1"}, "expected": "yes", "dense": "yes", "optimized": "no"}
        ],
    }
    assert [example["row"] for example in report["wrong_to_right"]["examples"]] == [2]
    assert report["wrong_to_right"]["examples"][0]["optimized"] == "yes"
    no, yes = report["classes"]
    assert (no["name"], no["rows"], yes["name"], yes["rows"]) == ("no", 2, "yes", 2)
    assert no["dense"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert yes["optimized"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_all_are_counted_and_some_are_shown() -> None:
    rows = EXAMPLES + 50
    report = holdout_report(
        TASK, split_of([0] * rows, ["x" * 9000] * rows), logits(*[0] * rows), logits(*[1] * rows)
    )
    assert report["right_to_wrong"]["rows"] == rows
    assert len(report["right_to_wrong"]["examples"]) == EXAMPLES
    assert len(report["right_to_wrong"]["examples"][0]["asked"]["text"]) == LONGEST_TEXT + 3
    assert report["wrong_to_right"] == {"rows": 0, "examples": []}
