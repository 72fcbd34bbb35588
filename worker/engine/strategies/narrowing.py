"""Narrowing: remove heads, weight groups and blocks, cheapest significance first, until the bounds hold."""

from __future__ import annotations

from collections.abc import Iterator

from models.spec import PruneHeads, PruneWeightGroups, Recipe, Step
from worker.engine.anatomy.shape import Shape
from worker.engine.significance.elements import (
    Element,
    block_elements,
    group_elements,
    group_size,
    head_elements,
)
from worker.engine.significance.fisher import FisherInformation
from worker.engine.strategies.base import Judgement, SearchProblem

ROUNDS = 6  # significance is estimated anew about this often on the way to the bounds
NARROWEST = 0.25  # of the heads and channels of each layer: what `narrowest` keeps


def narrow(
    problem: SearchProblem, recipe: Recipe, *, origin: Recipe | None = None
) -> Iterator[tuple[Recipe, Judgement]]:
    """Shapes ever closer to the goal, each judged with its recipe; ends when the goal is met.

    Also ends when nothing is left that may be removed and saves anything. A narrowing that was
    interrupted goes on the same way when `origin` is the recipe that it once began with.
    """
    full = problem.anatomy.full_shape()
    shape = full.applied(recipe)
    start = problem.goal.missing(problem.costs(full.applied(origin or recipe)))
    while not problem.goal.met(problem.costs(shape)):
        removed = _one_round(problem, shape, {resource: part / ROUNDS for resource, part in start.items()})
        if not removed:
            return
        recipe = recipe.then(*_as_steps(removed))
        shape = full.applied(recipe)
        yield recipe, problem.judge(shape)


def narrowest(problem: SearchProblem, shape: Shape) -> Shape:
    """The shape with about a quarter of its heads and channels: the least that an arm may come to."""
    for index, layer in enumerate(shape.layers):
        heads = layer.heads[: max(1, round(len(layer.heads) * NARROWEST))]
        channels = layer.channels[: max(1, round(len(layer.channels) * NARROWEST))]
        kept = type(layer)(
            heads=heads if problem.may("prune_heads") else layer.heads,
            channels=channels if problem.may("prune_weight_groups") else layer.channels,
            present=layer.present,
            hard_top_k=layer.hard_top_k,
        )
        shape = shape.with_layer(index, kept)
    return shape


def _one_round(problem: SearchProblem, shape: Shape, enough: dict[str, float]) -> list[Element]:
    """Elements to remove before significance is estimated anew: as many as save `enough`."""
    fisher = problem.fisher(shape)
    before = problem.costs(shape)
    removed: list[Element] = []
    while True:
        best = _cheapest(problem, shape, fisher)
        if best is None:
            return removed
        removed.append(best)
        shape = best.removed_from(shape)
        now = problem.costs(shape)
        saved_enough = any(
            before.of(resource) - now.of(resource) >= enough.get(resource, float("inf"))
            for resource in ("ms", "bytes")
        )
        if saved_enough or problem.goal.met(now):
            return removed


def _cheapest(problem: SearchProblem, shape: Shape, fisher: FisherInformation) -> Element | None:
    """The element with the least significance for the part of the missing costs that it saves."""
    before = problem.costs(shape)
    best: tuple[float, Element] | None = None
    for element in _removable(problem, shape, fisher):
        saving = problem.goal.progress(before, problem.costs(element.removed_from(shape)))
        if saving <= 0:
            continue
        price = fisher.of(element) / saving
        if best is None or price < best[0]:
            best = (price, element)
    return None if best is None else best[1]


def _removable(problem: SearchProblem, shape: Shape, fisher: FisherInformation) -> list[Element]:
    """Blocks, heads and groups that the job allows to go. The last head or group goes with its block."""
    elements: list[Element] = []
    if problem.may("prune_blocks"):
        elements += block_elements(shape)
    for index, layer in enumerate(shape.layers):
        if not layer.present:
            continue
        if problem.may("prune_heads") and len(layer.heads) > 1:
            elements += head_elements(shape, index)
        if problem.may("prune_weight_groups"):
            size = group_size(problem.anatomy.channels)
            groups = group_elements(shape, index, size, fisher.channel_scores(index))
            # Only the least significant group of a layer can be the cheapest: all save the same.
            elements += groups[:1] if len(groups) > 1 else []
    return elements


def _as_steps(removed: list[Element]) -> list[Step]:
    """One recipe step for each layer and kind, so that a recipe stays readable."""
    steps: list[Step] = []
    for element in removed:
        last = steps[-1] if steps else None
        step = element.step()
        if isinstance(step, PruneHeads) and isinstance(last, PruneHeads) and last.layer == step.layer:
            steps[-1] = PruneHeads(layer=step.layer, heads=(*last.heads, *step.heads))
        elif (
            isinstance(step, PruneWeightGroups)
            and isinstance(last, PruneWeightGroups)
            and last.layer == step.layer
        ):
            steps[-1] = PruneWeightGroups(
                layer=step.layer, channels=tuple(sorted((*last.channels, *step.channels)))
            )
        else:
            steps.append(step)
    return steps
