"""What a strategy is: a generator of candidates with a serialisable state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from models.spec import (
    ApproximationName,
    Candidate,
    CandidateMeasurements,
    Focus,
    GroupSizes,
    LearnMasks,
    Recipe,
    metric_value,
)
from worker.engine.anatomy import Anatomy
from worker.engine.anatomy.shape import Shape
from worker.engine.anatomy.slicing import is_native
from worker.engine.learned.vib import Ranking
from worker.engine.significance.base import Significance
from worker.engine.strategies.goal import CostModel, Costs, DenseReference, Goal


@dataclass(frozen=True)
class Score:
    """How a masked or recovered model does on the selection split: mean loss, and the job's metric.

    The metric is a score: more is better, see `metric_value`.
    """

    loss: float
    metric: float


@dataclass(frozen=True)
class Judgement(Score):
    """The same with the loss of each sample, (rows,)."""

    losses: np.ndarray


@dataclass(frozen=True)
class Bar:
    """What a change must come below: `ceiling` times the mean loss of its rival.

    If `guarded`, more than half of the rows must do no worse than where the search began, too.
    """

    ceiling: float
    guarded: bool


@dataclass(frozen=True)
class Abandoned:
    """A change that was given up after `seen` of `rows` rows: it does not come below the bar."""

    seen: int
    rows: int


Trials = Callable[[Sequence[Recipe]], Sequence[Score]]
"""Scores the models of recipes, each fine-tuned for a moment by itself."""
Contest = Callable[[Shape, Shape, Bar], Judgement | Abandoned]
"""Judges a shape (the second) against its rival (the first), as far as that is needed to know."""


class Lesson(Protocol):
    """Where the training of masks stands.

    `progress`: part of the steps that are done, 1 at the end. `asked`: the part of what the bounds ask
    that is asked by now.
    """

    @property
    def progress(self) -> float: ...

    @property
    def asked(self) -> float: ...

    @property
    def ranking(self) -> Ranking:
        """Of all units, as the masks stand."""

    @property
    def step(self) -> LearnMasks:
        """What the recipe says of the training so far."""

    def judge(self, shape: Shape) -> Judgement:
        """The model as it stands with the means of its masks, masked to the shape."""

    def keep(self, shape: Shape) -> None:
        """Hand the weights, with the means of what the shape keeps, to the stages that follow."""


class Teaching(Protocol):
    """Trains masks on what the stages know of the data."""

    def room(self, shape: Shape, asked: float = 1.0) -> float:
        """The part of the tightest bound that a shape leaves, by exact costs; below 0 where it does not hold.

        `asked`: as if bounds asked for this part only of what they do.
        """

    def lessons(self, *, weights: bool, fraction: float) -> Iterator[Lesson]:
        """Train, with the `weights` or with these frozen, on that part of the training rows.

        Yields some times on the way, and at the end; goes on from where a killed training was.
        """


@dataclass(frozen=True)
class SearchProblem:
    """All that a strategy may look at. Everything here comes from the selection and training data.

    `judge` masks the model to a shape and evaluates it; `contest` may stop before all rows are done (None:
    all are judged whole); `divergence` is how far the masked model's answers are from the whole one's;
    `significance` weighs the elements of a shape.
    `trials` fine-tunes the models of some recipes for a moment, each by itself, and evaluates them; it is
    None when the job forbids training. `trials_together`: it is best given all at once; `cheap_trials`:
    nothing is trained in them.
    `teaching` trains masks, for strategies that do; None for others.
    `start` is what is decided before the search; `group_sizes` how much of a width goes at a time.
    `longest`: tokens of the longest sequence that is judged.
    `native`: only shapes that a stock class holds are wanted. `metric`: the name of what scores tell.
    `tell(stage_message, step, total)` reports, and raises `Stopped` when asked to.
    """

    anatomy: Anatomy
    judge: Callable[[Shape], Judgement]
    divergence: Callable[[Shape], float]
    significance: Callable[[Shape], Significance]
    costs: CostModel
    dense: DenseReference
    goal: Goal
    focus: Focus
    allowed: frozenset[ApproximationName]
    trials: Trials | None
    length: int
    max_candidates: int
    metric: str = "accuracy"
    trials_together: bool = False
    cheap_trials: bool = False
    longest: int | None = None
    native: bool = False
    start: Recipe = field(default_factory=Recipe)
    group_sizes: GroupSizes = field(default_factory=GroupSizes)
    contest: Contest | None = None
    teaching: Teaching | None = None
    tell: Callable[[str, int, int | None], None] = field(default=lambda message, step, total: None)

    def may(self, approximation: ApproximationName) -> bool:
        return approximation in self.allowed

    def permits(self, shape: Shape) -> bool:
        """Whether a model of that shape may be delivered, whatever it costs."""
        return not self.native or is_native(self.anatomy, shape)


@dataclass(frozen=True)
class SearchStep:
    """One measured candidate, and the state from which the search goes on after it."""

    candidate: Candidate
    state: dict[str, Any]


class Strategy(ABC):
    """One way to look for a recipe. Subclasses hold no state between calls: it is all in `state`."""

    name: str

    @abstractmethod
    def search(self, problem: SearchProblem, state: dict[str, Any] | None) -> Iterator[SearchStep]:
        """Go on from `state` (None: from the start) until the search is over.

        `state` is JSON. Its key `recipe` holds the best recipe so far; `number` the next candidate's
        number. The same problem and state give the same candidates.
        """


def measured(problem: SearchProblem, shape: Shape, score: Score | None) -> CandidateMeasurements:
    """The measurements of a candidate whose latency and size are predicted."""
    costs: Costs = problem.costs(shape)
    return CandidateMeasurements(
        loss=None if score is None else score.loss,
        metric=None if score is None else metric_value(problem.metric, score.metric),
        parameters=problem.anatomy.parameters(shape),
        macs=problem.anatomy.macs(shape, problem.length),
        size_bytes=round(costs.bytes),
        latency_ms=costs.ms,
        latency_source="predicted",
        speedup=problem.dense.ms / costs.ms,
        size_reduction=problem.dense.bytes / costs.bytes,
    )
