"""Sequential tests: whether a change can be given up before all rows have been looked at.

A change is wanted if a sum over the N rows of a split, such as that of its losses less those of its
rival, comes out below zero. The rows are looked at one after the other, in random order without
replacement. If the sum is below zero, the rows that are left have on average less than m = -S / R, with S
the sum so far and R their number. So nobody can expect to win by betting that the next row has more:
wealth that is multiplied by 1 + b (x - m) for each row x, where the stake b was chosen before and leaves
the wealth at or above zero whatever x may be, is a supermartingale, and its chance of ever reaching 1 / a
is at most a (Ville 1939). When it does, the change is given up; the chance to be wrong is at most a,
whatever the distribution, however many rows, whenever one looks (Waudby-Smith and Ramdas 2024, section
5).

What no row can be less than is known in advance: a loss is not below zero, so its difference to the
rival's not below minus that. This bounds the stakes, so rows on which the rival does badly come first, in
fixed order and without bets; what is left has small bounds and allows large stakes. And once the rows
that are left cannot make up for the sum so far however well they do, the change is given up without any
chance of error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STAKES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)  # of the largest that is allowed; wealth is divided among them


class SumBelowZero:
    """Rows of which the sum may still come out below zero.

    `floors` (N,): the least that each row's value can be, in the order in which rows come. The first
    `fixed` rows come in an order that knows nothing of the values, but is not random: there are no bets
    on them. `error_rate` 0 leaves what is certain.
    """

    def __init__(self, floors: NDArray[np.floating], *, fixed: int, error_rate: float) -> None:
        exact = np.asarray(floors, dtype=np.float64)
        self._left = np.append(np.cumsum(exact[::-1])[::-1], 0.0)  # sum of the floors from a row on
        self._least = np.minimum.accumulate(exact[::-1])[::-1]  # the lowest of them
        self._fixed = fixed
        self._enough = np.inf if error_rate == 0 else 1.0 / error_rate
        self._wealth = np.full(len(STAKES), 1.0 / len(STAKES))
        self._sum = 0.0
        self._seen = 0
        self.refuted = False

    def add(self, values: NDArray[np.floating]) -> bool:
        """Look at the next rows; whether the sum cannot be below zero, as far as the error rate tells."""
        for value in np.asarray(values, dtype=np.float64):
            if not self.refuted:
                self._look(float(value))
        return self.refuted

    def _look(self, value: float) -> None:
        rows = len(self._least) - self._seen
        if self._seen >= self._fixed:
            mean, floor = -self._sum / rows, float(self._least[self._seen])
            if mean > floor:
                self._wealth *= 1.0 + np.asarray(STAKES) * (value - mean) / (mean - floor)
        self._sum += value
        self._seen += 1
        certain = self._sum + self._left[self._seen] >= 0.0
        self.refuted = bool(certain or self._wealth.sum() >= self._enough)


def looking_order(rival: NDArray[np.floating], *, hardest: float, seed: int) -> tuple[NDArray[np.int64], int]:
    """The rows by their losses (N,): the `hardest` part first, worst first; then all others at random.

    Answers the order, (N,), and how many are the hardest.
    """
    fixed = round(len(rival) * hardest)
    worst = np.argsort(-np.asarray(rival), kind="stable")
    rest = np.sort(worst[fixed:])
    return np.concatenate([worst[:fixed], np.random.default_rng(seed).permutation(rest)]), fixed
