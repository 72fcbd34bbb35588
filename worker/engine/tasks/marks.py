"""Marks: what the answers on each row count for in a task's scores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Marks:
    """`values` (n, k): what they are is the task's own; a score of some rows needs theirs alone.

    `classes` is the number of classes that the task tells apart; 0 where there are none.
    """

    values: NDArray[np.float64]
    classes: int = 0

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: NDArray[np.int64]) -> Marks:
        """Of the rows at `index`, which may name a row more than once."""
        return replace(self, values=self.values[index])


@dataclass(frozen=True)
class ClassScores:
    """One line of the per-class table; `rows` counts what is of the class, whatever was answered."""

    name: str
    rows: int
    precision: float
    recall: float
    f1: float


def class_scores(
    names: tuple[str, ...],
    hits: NDArray[np.float64],
    answered: NDArray[np.float64],
    held: NDArray[np.float64],
) -> list[ClassScores]:
    """The table of counts by class, each (classes,): right, answered, and really there.

    A share of nothing is 0.
    """
    precision, recall = ratio(hits, answered), ratio(hits, held)
    f1 = ratio(2 * hits, answered + held)
    return [
        ClassScores(name, int(held[at]), float(precision[at]), float(recall[at]), float(f1[at]))
        for at, name in enumerate(names)
    ]


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole; 0 where whole is."""
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0))
