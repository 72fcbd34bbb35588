"""Timetable: by when each stage is to be done, so that recovery has its part of the budget.

What a stage costs depends on the machine: where a pass over the data takes three times as long, stages that
take what they need leave recovery nothing, and an untrained structure is worth little. So fine-tuning
and the latency table are cut to what their stage may still take; weighing and search take fewer rows where
a row takes longer (`problem.compared_rows`). On a machine with time to spare none of this binds.
"""

from __future__ import annotations

from models.spec import StrategyName
from worker.engine.reporting import Stage
from worker.engine.run import Run

RECOVERY_SHARE = 0.4  # of the budget, which the stages before leave to sizing, training and measuring rungs
DONE_BY: dict[Stage, float] = {"prepare": 0.05, "baseline": 0.28, "analyse": 0.39, "search": 0.52}
"""Shares of the budget by which stages are to be done; what follows recovery takes the last 8 %."""
LEARNING_SHARES: dict[StrategyName, float] = {"vtrans": 0.2, "fast-vtrans": 0.12, "faster-vtrans": 0.12}
"""Of the budget, that strategies which train masks take for that from recovery's part: with the weights on
all rows, half of it."""
LEAST_SECONDS = 1.0


def seconds_for(run: Run, stage: Stage) -> float:
    """Seconds that the stage may still take, at least one: none is left out because one before was late.

    Where nothing is recovered, its part goes to the stages before, in proportion.
    """
    share = DONE_BY[stage]
    if run.spec.recovery == "off":
        share *= (DONE_BY["search"] + RECOVERY_SHARE) / DONE_BY["search"]
    elif stage == "search":
        share += LEARNING_SHARES.get(run.spec.strategy, 0.0)
    return max(LEAST_SECONDS, share * run.spec.budget.max_minutes * 60 - run.stopwatch.used)
