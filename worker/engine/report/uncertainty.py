"""How sure the certificate's numbers are: intervals of what constraints bound."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.spec import ConstraintResult
from worker.engine.measure.intervals import PairedBootstrap
from worker.engine.report.schema import Interval, JudgedConstraint

LEVEL = 0.95


@dataclass(frozen=True)
class Uncertainty:
    """Intervals at 95 %: of the metric and its drop by the paired bootstrap, of the speedup over the rounds.

    The certified speedup compares each model's fastest round and may lie outside the rounds' own ratios.
    """

    metric: Interval
    absolute_drop: Interval
    relative_drop: Interval
    speedup: Interval

    @staticmethod
    def of(paired: PairedBootstrap, round_speedups: npt.NDArray[np.float64]) -> Uncertainty:
        tail = 50.0 * (1.0 - LEVEL)
        low, high = np.percentile(round_speedups, [tail, 100.0 - tail])
        return Uncertainty(
            metric=paired.optimized_interval(LEVEL),
            absolute_drop=paired.absolute_drop_interval(LEVEL),
            relative_drop=paired.relative_drop_interval(LEVEL),
            speedup=(float(low), float(high)),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def judged(self, result: ConstraintResult) -> JudgedConstraint:
        """A result of the certificate with the interval of its quantity."""
        of_metric = {
            "accuracy.max_relative_drop": self.relative_drop,
            "accuracy.max_absolute_drop": self.absolute_drop,
            "accuracy.min": self.metric,
            "accuracy.max": (-self.metric[1], -self.metric[0]),  # of a perplexity, which is negated
            "accuracy.min_gain": (-self.absolute_drop[1], -self.absolute_drop[0]),
        }
        of_time = {"speed.min_speedup": self.speedup}
        interval = (of_metric | of_time).get(result.name)
        return JudgedConstraint(
            name=result.name,
            bound="at_most" if result.name.rpartition(".")[2].startswith("max") else "at_least",
            required=result.required,
            measured=result.measured,
            met=result.met,
            interval=None if interval is None else (interval[0], interval[1]),
            interval_of=(
                "paired bootstrap, 95 %"
                if result.name in of_metric
                else "rounds of the timing"
                if result.name in of_time
                else None
            ),
        )
