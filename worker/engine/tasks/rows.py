"""Rows of a data set as a task reads them: texts, second texts where there are pairs, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """`pairs` is None for single texts. `labels` has shape (n,) and holds indices into the label set."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)
