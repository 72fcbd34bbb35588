"""The strategy `axformer` (arXiv 2010.03688): its algorithm depends on the focus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.spec import Recipe
from worker.engine.strategies.accuracy_driven import accuracy_driven
from worker.engine.strategies.base import SearchProblem, SearchStep, Strategy
from worker.engine.strategies.cost_driven import cost_driven


class AxFormer(Strategy):
    """Accuracy focus: the published accuracy-driven pruning. Speed and size: least significance for
    what is saved. With accuracy focus, bounds on speed or size that its result does not meet are met
    by the cost-driven search that goes on from it."""

    name = "axformer"

    def search(self, problem: SearchProblem, state: dict[str, Any] | None) -> Iterator[SearchStep]:
        if problem.focus != "accuracy":
            yield from cost_driven(problem, state, start=problem.start)
            return
        if state is None or "pending" in state:
            for step in accuracy_driven(problem, state):
                state = step.state
                yield step
        if state is not None and "pending" in state:
            start = Recipe.model_validate(state["recipe"])
            shape = problem.anatomy.full_shape().applied(start)
            if not problem.goal.met(problem.costs(shape)):
                yield from cost_driven(problem, None, start=start, number=state["number"])
            return
        yield from cost_driven(problem, state)
