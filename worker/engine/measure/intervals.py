"""Paired bootstrap of a metric: how sure the difference between two models on the same rows is."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]
RESAMPLES = 10_000
RESAMPLES_OF_SCORE = 2_000


class Marks(Sized, Protocol):
    """What answers on rows count for in a score."""

    def take(self: M, index: npt.NDArray[np.int64]) -> M:
        """Of the rows at `index`, which may name a row more than once."""


M = TypeVar("M", bound=Marks)
M_contra = TypeVar("M_contra", bound=Marks, contravariant=True)


class Scorer(Protocol[M_contra]):
    """A job's score; see `tasks.scoring`."""

    def score(self, marks: M_contra) -> float:
        """Of some rows; higher is better (`metric_value` tells people)."""

    def right(self, marks: M_contra) -> npt.NDArray[np.bool_] | None:
        """The rows of which the score is the share, or None where it is something else."""


@dataclass(frozen=True)
class PairedBootstrap:
    """A score (higher is better, see `metric_value`) of the dense and the optimized model, and of resamples.

    `dense_resampled[i]` and `optimized_resampled[i]` come from the same rows, drawn with replacement.
    Intervals are percentile intervals (Efron and Tibshirani 1993, ch. 13). They say nothing about
    rows unlike those measured: two models that agree on every row get an interval of no width.
    """

    dense: float
    optimized: float
    dense_resampled: Floats
    optimized_resampled: Floats

    @property
    def absolute_drop(self) -> float:
        """Dense minus optimized: positive means worse."""
        return self.dense - self.optimized

    @property
    def relative_drop(self) -> float:
        """(dense - optimized) / |dense|; of a perplexity by what part it rises."""
        return relative_drop(self.dense, self.optimized)

    def absolute_drop_interval(self, level: float = 0.95) -> Interval:
        return _percentile(self.dense_resampled - self.optimized_resampled, level)

    def relative_drop_interval(self, level: float = 0.95) -> Interval:
        return _percentile(_relative_drops(self.dense_resampled, self.optimized_resampled), level)

    def optimized_interval(self, level: float = 0.95) -> Interval:
        """Of the optimized model's metric itself."""
        return _percentile(self.optimized_resampled, level)

    def stretched(self, factor: float) -> PairedBootstrap:
        """The same with every resample `factor` times as far from the measured metrics."""
        return replace(
            self,
            dense_resampled=self.dense + factor * (self.dense_resampled - self.dense),
            optimized_resampled=self.optimized + factor * (self.optimized_resampled - self.optimized),
        )


def relative_drop(dense: float, optimized: float) -> float:
    """(dense - optimized) / |dense|; where the dense metric is 0, the absolute drop stands for it."""
    return float(_relative_drops(np.array([dense]), np.array([optimized]))[0])


def bootstrap_accuracy(
    dense_correct: npt.NDArray[np.bool_],
    optimized_correct: npt.NDArray[np.bool_],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    unseen: float = 0.0,
) -> PairedBootstrap:
    """Paired bootstrap of accuracy from which rows each model gets right, both [rows].

    Resampling rows is drawing the four counts (both right, one, the other, neither) from a
    multinomial distribution, so the cost does not depend on the number of rows. `unseen`: that many rows
    more are counted where only the one and where only the other model is right; it need not be whole.
    """
    rows = _same_rows(dense_correct, optimized_correct)
    cells = np.bincount(2 * dense_correct.astype(np.int64) + optimized_correct, minlength=4)
    counted = cells + unseen * np.array([0.0, 1.0, 1.0, 0.0])
    drawn = np.random.default_rng(seed).multinomial(rows, counted / counted.sum(), size=resamples)
    _, only_optimized, only_dense, both = drawn.T
    return PairedBootstrap(
        float(dense_correct.mean()),
        float(optimized_correct.mean()),
        (both + only_dense) / rows,
        (both + only_optimized) / rows,
    )


def bootstrap_score(
    score: Callable[[M], float],
    dense: M,
    optimized: M,
    *,
    resamples: int = RESAMPLES_OF_SCORE,
    seed: int = 0,
) -> PairedBootstrap:
    """Paired bootstrap of any `score` of the marks of both models on the same rows."""
    rows = _same_rows(dense, optimized)
    rng = np.random.default_rng(seed)
    scores = np.empty((resamples, 2))
    for resample in scores:
        drawn = rng.integers(rows, size=rows)
        resample[:] = score(dense.take(drawn)), score(optimized.take(drawn))
    return PairedBootstrap(score(dense), score(optimized), scores[:, 0], scores[:, 1])


def paired_bootstrap(
    scorer: Scorer[M], dense: M, optimized: M, *, seed: int = 0, unseen: float = 0.0
) -> PairedBootstrap:
    """Paired bootstrap of the job's score; the share of right rows takes the short way, with `unseen`."""
    dense_right, optimized_right = scorer.right(dense), scorer.right(optimized)
    if dense_right is not None and optimized_right is not None:
        return bootstrap_accuracy(dense_right, optimized_right, seed=seed, unseen=unseen)
    return bootstrap_score(scorer.score, dense, optimized, seed=seed)


def _same_rows(*arrays: Sized) -> int:
    counts = {len(array) for array in arrays}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"a paired interval needs the same rows for both models, found {sorted(counts)}")
    return counts.pop()


def _relative_drops(dense: Floats, optimized: Floats) -> Floats:
    scale = np.abs(dense)
    return np.asarray((dense - optimized) / np.where(scale > 0.0, scale, 1.0))


def _percentile(values: Floats, level: float) -> Interval:
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)
