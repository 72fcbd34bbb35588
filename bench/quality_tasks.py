"""The tasks of `bench/quality.py`: what each job's spec says of the data, and what is asked of its search.

Where two cores could not train on all rows in minutes, `max_train_rows` draws fewer; every row of the
results says how many the dense model was fine-tuned on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DEFAULT_MINUTES = 15.0


@dataclass(frozen=True)
class QualityTask:
    """A data set as a job reads it.

    `spec`: what the spec says beside the data. `dense_minutes`: that fine-tuning the dense model may take.
    `minutes`: a contender's budget. `speedup`, `size_reduction`: what the search is asked for.
    """

    dataset: dict[str, Any]
    spec: dict[str, Any] = field(default_factory=dict)
    dense_minutes: float = 8.0
    minutes: float = DEFAULT_MINUTES
    speedup: float = 3.0
    size_reduction: float = 8.0


def _pair(first: str, second: str) -> dict[str, Any]:
    return {"columns": {"text": first, "text_pair": second, "label": "label"}}


SENTENCE = {"columns": {"text": "sentence", "label": "label"}}

QUALITY_TASKS: dict[str, QualityTask] = {
    "sst2": QualityTask(SENTENCE | {"max_train_rows": 10_000}),
    "trec": QualityTask({"columns": {"text": "text", "label": "coarse_label"}}),
    # Short questions of many classes want larger steps than the default.
    "banking77": QualityTask({}, {"baseline": {"epochs": 8, "learning_rate": 2e-4}}),
    "mrpc": QualityTask(_pair("sentence1", "sentence2")),
    "rte": QualityTask(_pair("sentence1", "sentence2")),
    "cola": QualityTask(SENTENCE, {"metric": "matthews_correlation"}),
    "stsb": QualityTask(_pair("sentence1", "sentence2"), {"task": "regression"}),
    "qnli_derived": QualityTask(_pair("question", "sentence") | {"max_train_rows": 12_000}),
    "wnut17": QualityTask(
        {"columns": {"tokens": "tokens", "label": "ner_tags"}}, {"task": "token-classification"}
    ),
    "squad": QualityTask(
        {
            "columns": {"question": "question", "context": "context", "answers": "answers"},
            "max_train_rows": 8000,
        },
        {"task": "question-answering", "baseline": {"epochs": 3, "max_length": 256}},
        dense_minutes=20.0,
        minutes=25.0,
    ),
}
