"""Rows of a data set as a task reads them: parts by name, one value a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """`parts` are columns of one length, by the names that the task gave them.

    `labels` are the names that the ids in part `label` stand for; empty where that part holds no ids.
    """

    parts: Mapping[str, Sequence[Any]]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, part: str) -> Sequence[Any]:
        return self.parts[part]

    def __contains__(self, part: object) -> bool:
        return part in self.parts

    def take(self, index: NDArray[np.int64]) -> Rows:
        """The rows at `index`, in that order."""
        return Rows({name: [values[i] for i in index] for name, values in self.parts.items()}, self.labels)

    def with_part(self, name: str, values: Sequence[Any], labels: tuple[str, ...] = ()) -> Rows:
        """The rows with one part replaced, and what its ids stand for."""
        return Rows({**self.parts, name: values}, labels)

    def complete(self) -> NDArray[np.int64]:
        """Indices of the rows of which no part is None."""
        return np.flatnonzero([all(value is not None for value in row) for row in self._row_by_row()])

    def _row_by_row(self) -> Sequence[tuple[Any, ...]]:
        return list(zip(*self.parts.values(), strict=True))
