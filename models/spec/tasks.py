"""The tasks, and what each is scored and given by: the metrics, and the parts that columns play."""

from __future__ import annotations

from typing import Literal, get_args

TaskName = Literal[
    "text-classification",
    "multi-label-classification",
    "regression",
    "token-classification",
    "question-answering",
    "multiple-choice",
]
MetricName = Literal[
    "accuracy",
    "f1",
    "matthews_correlation",
    "f1_micro",
    "f1_macro",
    "pearson",
    "spearman",
    "r2",
    "precision",
    "recall",
    "exact_match",
]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
TASK_METRICS: dict[TaskName, tuple[MetricName, ...]] = {
    "text-classification": ("accuracy", "f1", "matthews_correlation"),
    "multi-label-classification": ("f1_micro", "f1_macro", "accuracy"),
    "regression": ("pearson", "spearman", "r2"),
    "token-classification": ("f1", "precision", "recall", "accuracy"),
    "question-answering": ("f1", "exact_match"),
    "multiple-choice": ("accuracy",),
}
"""What each task is scored by, higher is better; the first is the default."""
TASK_COLUMNS: dict[TaskName, tuple[str, ...]] = {
    "text-classification": ("text", "text_pair", "label"),
    "multi-label-classification": ("text", "text_pair", "label", "labels"),
    "regression": ("text", "text_pair", "label"),
    "token-classification": ("tokens", "label"),
    "question-answering": ("question", "context", "answers"),
    "multiple-choice": ("text", "question", "choices", "label"),
}
"""The fields of `dataset.columns` that have a meaning for each task."""
