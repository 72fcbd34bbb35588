"""Scores of a classifier, all from its confusion matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Counts (classes, classes): row = true label, column = predicted one."""
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of rows on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def f1(confusion: NDArray[np.int64]) -> float:
    """Of two classes, F1 of the second; of more, the mean of every class's F1 (macro).

    Classes that occur neither as a label nor as a prediction do not count in the mean.
    """
    hits = np.diag(confusion).astype(np.float64)
    occurring = confusion.sum(axis=0) + confusion.sum(axis=1)
    scores = 2 * hits / np.maximum(occurring, 1)
    return float(scores[1]) if len(scores) == 2 else float(scores[occurring > 0].mean())


def matthews_correlation(confusion: NDArray[np.int64]) -> float:
    """Correlation of labels and predictions for any number of classes (Gorodkin 2004, R_K).

    0 when all labels or all predictions are one class.
    """
    counts = confusion.astype(np.float64)
    total, right = counts.sum(), np.trace(counts)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    spread = (total**2 - true @ true) * (total**2 - predicted @ predicted)
    return float((right * total - true @ predicted) / np.sqrt(spread)) if spread > 0 else 0.0


METRICS: dict[str, Callable[[NDArray[np.int64]], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
}
