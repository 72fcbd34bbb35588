"""The strategy `auto`: the search of `axformer`, and a rule for what comes after it.

Retraining-free recovery is enough where little has to go (Kwon et al. 2022 lose less than 1 % at 1.5 times
fewer milliseconds) and costs minutes; far from the dense model only distillation brings the accuracy back.
Where between these a job lies is measured: the structure that the search ends with is judged as it is once
its weights are solved anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from worker.engine.strategies.axformer import AxFormer
from worker.engine.strategies.base import SearchProblem, SearchStep, Strategy


class Auto(Strategy):
    """As `axformer`; its recovery is chosen by `chosen_recovery` once the structure is known."""

    name = "auto"

    def search(self, problem: SearchProblem, state: dict[str, Any] | None) -> Iterator[SearchStep]:
        return AxFormer().search(problem, state)


@dataclass(frozen=True)
class Found:
    """What is known when the search is over.

    `saving`: how many times less than the whole model in the delivered precision, of the resource that
    loses most. `keeps_accuracy`: whether the structure does without training what is asked, with room to
    spare; None without a bound on accuracy, or where there is no time to find out. `pass_seconds`: of one
    pass of distillation over the training rows.
    """

    saving: float
    keeps_accuracy: bool | None
    seconds_left: float
    pass_seconds: float

    @property
    def has_time(self) -> bool:
        """Whether there is time for such a pass. Solving weights anew takes some on 2,048 rows at most."""
        return self.seconds_left >= self.pass_seconds


@dataclass(frozen=True)
class Choice:
    """How to recover without training (None: by training), and why, in a sentence."""

    recovery: Literal["off", "reconstruct"] | None
    why: str


MILD = 1.5  # times less: up to there, and without a bound on accuracy, nothing is trained


def chosen_recovery(found: Found) -> Choice:
    """The rule: nothing at all where there is no time for a pass; weights solved anew where that keeps the
    accuracy, or where little was removed and there is no bound on it; else distillation."""
    removed = f"{found.saving:.2f} times less than the whole model in the delivered precision"
    if not found.has_time:
        return Choice(
            "off",
            f"No training: a pass over the training rows takes {found.pass_seconds:.0f} s, and "
            f"{found.seconds_left:.0f} s of the budget are left.",
        )
    if found.keeps_accuracy:
        return Choice(
            "reconstruct", f"No training: the structure, {removed}, keeps the accuracy that is asked without."
        )
    if found.keeps_accuracy is None and found.saving <= MILD:
        return Choice(
            "reconstruct", f"No training: the structure is {removed}, and no accuracy is asked for."
        )
    return Choice(
        None, f"Distillation: the structure is {removed}, and training brings back what that costs."
    )
