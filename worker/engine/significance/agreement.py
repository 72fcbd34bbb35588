"""How far an estimate puts elements in the order that exact ablation gives, and how far that order stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy.stats import kendalltau, spearmanr

Told = TypeVar("Told")
FEWEST = 3  # elements of which an order tells anything


def agreement(exact: Sequence[float], estimate: Sequence[float]) -> dict[str, float | None]:
    """Rank agreement of two significances of the same elements.

    `spearman` (rho) and `kendall` (tau b) from -1 to 1; `least_quarter` is the part of the least
    significant quarter (at least one) of the exact order that is in that of the estimate: 0.25 by chance.
    None where one of them does not vary, or for fewer than three elements.
    """
    one, other = np.asarray(exact), np.asarray(estimate)
    varies = len(one) >= FEWEST and bool(np.ptp(one) > 0) and bool(np.ptp(other) > 0)
    if not varies:
        return {"spearman": None, "kendall": None, "least_quarter": None}
    quarter = max(1, len(one) // 4)
    least = [set(np.argsort(each, kind="stable")[:quarter].tolist()) for each in (one, other)]
    return {
        "spearman": float(spearmanr(one, other).statistic),
        "kendall": float(kendalltau(one, other).statistic),
        "least_quarter": len(least[0] & least[1]) / quarter,
    }


def agreement_by_kind(
    kinds: Sequence[str], exact: Sequence[float], estimate: Sequence[float]
) -> Mapping[str, dict[str, float | None]]:
    """The same for the elements of each kind, and under `all` for all of them together."""
    return _by_kind(agreement, kinds, exact, estimate)


def reliability(changes: Sequence[float], errors: Sequence[float]) -> float | None:
    """The part, 0 to 1, of how exact loss changes vary that is not due to which rows they are measured on.

    `errors` are their standard errors. It is 1 - mean(error^2) / variance, the reliability of classical test
    theory (Lord and Novick 1968): no estimate can be expected to correlate with what was
    measured by more than its square root. None where nothing varies, or for fewer than three elements.
    """
    if len(changes) < FEWEST or not np.ptp(changes) > 0:
        return None
    return max(0.0, 1.0 - float(np.mean(np.square(errors)) / np.var(changes, ddof=1)))


def reliability_by_kind(
    kinds: Sequence[str], changes: Sequence[float], errors: Sequence[float]
) -> Mapping[str, float | None]:
    """The same for the elements of each kind, and under `all` for all of them together."""
    return _by_kind(reliability, kinds, changes, errors)


def _by_kind(
    of: Callable[[Sequence[float], Sequence[float]], Told],
    kinds: Sequence[str],
    one: Sequence[float],
    other: Sequence[float],
) -> Mapping[str, Told]:
    by_kind: dict[str, Told] = {}
    for kind in dict.fromkeys(kinds):
        at = [number for number, each in enumerate(kinds) if each == kind]
        by_kind[kind] = of([one[n] for n in at], [other[n] for n in at])
    return {**by_kind, "all": of(one, other)}
