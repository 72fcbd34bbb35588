"""Gradual recovery: come to the structure in steps, and let the model learn after each.

What is removed next is chosen on the model as it has recovered by then, and a little that is missing is
learnt faster than much (ZipLM, Kurtic et al. 2023, prunes towards ever higher speedups so; CoFi, Xia et al.
2022, raises its sparsity while it trains).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from models.spec import PruneLayers, Recipe, RecoveryOptions
from worker.engine.anatomy import Anatomy
from worker.engine.run import Run
from worker.engine.stages.fitting import pass_seconds, recovery_of
from worker.engine.stages.problem import cost_model, dense_reference, search_problem
from worker.engine.strategies.goal import Costs, Goal
from worker.engine.strategies.narrowing import narrowed

# Times less than the whole model in the delivered precision: from there `auto` is gradual, if there is time
# for all steps. With time for a single one, gradual recovery was measured to do no better than one-shot.
HARD = 4.0
SHARE_OF_TRAINING = 0.5  # of the time for the first rung: what all steps before it take together
MOST_STEPS = 4
LEAST_PASS = 0.5  # of the training rows, that a step learns from
ROUNDS = 2  # of estimating significance anew, in a step

Tell = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Plan:
    """Costs to come to, step by step, the last of which is trained as the first rung; and the seconds of
    training for each of the others. Without any the structure is trained at once."""

    goals: tuple[Goal, ...]
    seconds: float

    @staticmethod
    def from_json(document: dict[str, Any]) -> Plan:
        return Plan(tuple(Goal(**goal) for goal in document["goals"]), document["seconds"])

    def to_json(self) -> dict[str, Any]:
        return {"goals": [vars(goal) for goal in self.goals], "seconds": self.seconds}


def plan(run: Run, target: Recipe, seconds: float) -> Plan:
    """As many steps as `seconds` have room for, each with a pass over the training rows.

    None where one-shot recovery was asked for, or does as well, and none with accuracy focus: there the
    published algorithm has chosen what goes. None where masks were trained either: they have come to
    the structure gradually.
    """
    costs = cost_model(run)
    whole, wanted = costs(run.anatomy.full_shape()), costs(run.shape(target))
    passing = pass_seconds(run, (1.0 + wanted.ms / whole.ms) / 2)  # a student's of medium size
    fixed = not isinstance(run.spec.recovery, RecoveryOptions) or run.spec.focus == "accuracy"
    fixed = fixed or run.learns
    schedule = "one_shot" if fixed else recovery_of(run).schedule
    bounds = Goal.of(run.spec.constraints, dense_reference(run), margin=0.0)
    return planned(schedule, bounds, whole, wanted, passing, SHARE_OF_TRAINING * seconds)


def planned(schedule: str, bounds: Goal, whole: Costs, wanted: Costs, passing: float, seconds: float) -> Plan:
    """The steps from `whole` to `wanted`, each of which removes the same part of what is left, and at the end
    `wanted` itself, of what `bounds` has bounds on.

    `passing`: seconds of a pass over the training rows.
    """
    cut = max(whole.ms / wanted.ms, whole.bytes / wanted.bytes)
    steps = min(MOST_STEPS, int(seconds / (LEAST_PASS * passing)))
    wanted_so = schedule == "gradual" or (schedule == "auto" and cut >= HARD and steps == MOST_STEPS)
    if not wanted_so or cut <= 1.0 or steps < 1 or bounds == Goal():
        return Plan((), 0.0)

    def goal(part: float) -> Goal:
        ms = whole.ms * (wanted.ms / whole.ms) ** part
        size = whole.bytes * (wanted.bytes / whole.bytes) ** part
        return Goal(None if bounds.ms is None else ms, None if bounds.bytes is None else size)

    return Plan(tuple(goal(number / (steps + 1)) for number in range(1, steps + 2)), seconds / steps)


def next_recipe(
    run: Run, anatomy: Anatomy, recipe: Recipe, layers: Sequence[PruneLayers], goal: Goal, tell: Tell
) -> Recipe:
    """`recipe` brought to `goal`: by `layers`, as many as it takes, and then by what matters least in the
    model of `anatomy`, which `recipe` made."""
    costs = cost_model(run)
    for step in layers:
        if goal.met(costs(run.shape(recipe))):
            return recipe
        recipe = recipe.then(step)
    problem = search_problem(run, anatomy, goal, tell=tell)
    return narrowed(problem, recipe, ROUNDS)


def dropped_layers(recipe: Recipe) -> list[PruneLayers]:
    """A step for each layer that the recipe drops, in its order."""
    steps = (step for step in recipe.steps if isinstance(step, PruneLayers))
    return [PruneLayers(layers=(layer,)) for step in steps for layer in step.layers]
