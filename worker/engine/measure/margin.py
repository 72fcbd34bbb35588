"""The margin between selection split and holdout, where accuracy is asked for with a confidence level.

What the selection split says of a drop differs from what the holdout will say, because both are samples: the
variance of the difference is that of one row times (1 / selection rows + 1 / holdout rows). And of several
candidates the one is delivered that looks good, so each has to be that much surer (Bonferroni). A bootstrap
knows only what it has seen: of two models that agree on all of 200 rows it says that they agree on all rows.
So it is given half a row of each kind of disagreement more (Jeffreys' prior).
"""

from __future__ import annotations

from math import sqrt

from models.spec import Constraints
from worker.engine.measure.intervals import PairedBootstrap

UNSEEN = 0.5  # rows of each kind of disagreement


def foreseen(paired: PairedBootstrap, selection_rows: int, holdout_rows: int) -> PairedBootstrap:
    """What other rows may say, from a bootstrap on the selection split: its resamples, further apart.

    The bootstrap is one with `UNSEEN` rows.
    """
    return paired.stretched(sqrt(1.0 + selection_rows / holdout_rows))


def surer(constraints: Constraints, choices: int) -> Constraints:
    """The constraints as the best of `choices` candidates is held to them on the selection split.

    With a confidence level the accuracy's intervals are two-sided ones whose unfavourable end each candidate
    passes wrongly with the asked error rate divided by `choices`. Others are returned as they are.
    """
    level = constraints.accuracy.confidence
    if level == "point":
        return constraints
    one_sided = (1.0 - level) / choices
    accuracy = constraints.accuracy.model_copy(update={"confidence": max(0.5, 1.0 - 2.0 * one_sided)})
    return constraints.model_copy(update={"accuracy": accuracy})
