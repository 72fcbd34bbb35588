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
    "causal-lm",
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
    "perplexity",
]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
TASK_METRICS: dict[TaskName, tuple[MetricName, ...]] = {
    "text-classification": ("accuracy", "f1", "matthews_correlation"),
    "multi-label-classification": ("f1_micro", "f1_macro", "accuracy"),
    "regression": ("pearson", "spearman", "r2"),
    "token-classification": ("f1", "precision", "recall", "accuracy"),
    "question-answering": ("f1", "exact_match"),
    "multiple-choice": ("accuracy",),
    "causal-lm": ("perplexity", "accuracy"),
}
"""What each task is scored by; the first is the default."""
LOWER_IS_BETTER: frozenset[MetricName] = frozenset({"perplexity"})
"""The metrics of which less is better; of all others more is."""
TASK_COLUMNS: dict[TaskName, tuple[str, ...]] = {
    "text-classification": ("text", "text_pair", "label"),
    "multi-label-classification": ("text", "text_pair", "label", "labels"),
    "regression": ("text", "text_pair", "label"),
    "token-classification": ("tokens", "label"),
    "question-answering": ("question", "context", "answers"),
    "multiple-choice": ("text", "question", "choices", "label"),
    "causal-lm": ("text",),
}
"""The fields of `dataset.columns` that have a meaning for each task."""
TORCH_EXPORT_TASKS: tuple[TaskName, ...] = (
    "text-classification",
    "multi-label-classification",
    "regression",
    "token-classification",
    "question-answering",
    "multiple-choice",
)
"""The tasks whose models are exported as `torch.export` programs."""


def metric_value(metric: str, score: float) -> float:
    """The metric as people read it, of a score as the engine compares them: more is better, less is negated.

    Its own inverse.
    """
    return -score if metric in LOWER_IS_BETTER else score
