"""Narrowing: solve for the heads, weight groups and blocks to remove, in rounds, until the bounds hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from models.spec import PruneHeads, PruneHidden, PruneWeightGroups, Recipe, Step
from models.spec.ranges import as_ranges, from_ranges
from worker.engine.anatomy.shape import Shape
from worker.engine.significance.base import Significance
from worker.engine.significance.elements import (
    Element,
    block_elements,
    group_elements,
    group_size,
    head_elements,
    hidden_elements,
    layer_elements,
)
from worker.engine.strategies.allocation import allocate
from worker.engine.strategies.base import Judgement, SearchProblem
from worker.engine.strategies.goal import Resource
from worker.engine.strategies.options import block_options

ROUNDS = 6  # as a rule
MOST_GROUPS = 2  # of hidden dimensions, that a round removes
NARROWEST = 0.25  # of the heads and channels of each layer: what `narrowest` keeps


def narrow(
    problem: SearchProblem, recipe: Recipe, *, origin: Recipe | None = None, rounds: int = ROUNDS
) -> Iterator[tuple[Recipe, Judgement]]:
    """Shapes ever closer to the goal, each judged with its recipe; ends when the goal is met.

    Each round solves for what is to be saved until then (see `allocation`). Where no allocation saves that
    much, elements go one by one as long as anything may be removed that saves something.
    A narrowing that was interrupted goes on the same way when `origin` is the recipe that it once began with.
    Significance is estimated anew about `rounds` times on the way.
    """
    full = problem.anatomy.full_shape()
    shape = full.applied(recipe)
    start = problem.goal.missing(problem.costs(full.applied(origin or recipe)))
    while missing := problem.goal.missing(problem.costs(shape)):
        removed = _one_round(problem, shape, _next_savings(start, missing, rounds))
        if not removed:
            return
        recipe = recipe.then(*as_steps(removed))
        shape = full.applied(recipe)
        yield recipe, problem.judge(shape)


def narrowed(problem: SearchProblem, recipe: Recipe, rounds: int = ROUNDS) -> Recipe:
    """The last recipe that `narrow` comes to; the same one where nothing is to be removed, or can be."""
    return [recipe, *(narrower for narrower, _ in narrow(problem, recipe, rounds=rounds))][-1]


def narrowest(problem: SearchProblem, shape: Shape) -> Shape:
    """The shape with about a quarter of its heads and channels: the least that an arm may come to."""
    for index, layer in enumerate(shape.layers):
        heads = layer.heads[: max(1, round(len(layer.heads) * NARROWEST))]
        channels = layer.channels[: max(1, round(len(layer.channels) * NARROWEST))]
        kept = type(layer)(
            heads=heads if problem.may("prune_heads") else layer.heads,
            channels=channels if problem.may("prune_weight_groups") else layer.channels,
            present=layer.present,
            sparse=layer.sparse,
        )
        shape = shape.with_layer(index, kept)
    return shape


def smallest(problem: SearchProblem, shape: Shape) -> Shape:
    """What is left of `shape` with everything removed that the job allows: the least that can be reached."""
    for element in layer_elements(shape):
        without = element.removed_from(shape)
        left = any(each.present for each in without.layers)
        if left and problem.may("prune_layers") and problem.permits(without):
            shape = without
    if problem.may("prune_hidden"):
        for group in hidden_groups(problem, shape, np.zeros(problem.anatomy.hidden_size))[:-1]:
            shape = group.removed_from(shape)
    size = group_size(problem.anatomy.channels, problem.group_sizes.ffn)
    for index, layer in enumerate(shape.layers):
        if not shape.leads(index):
            continue
        gone = problem.may("prune_blocks")
        heads = () if gone else layer.heads[: 1 if problem.may("prune_heads") else None]
        channels = () if gone else layer.channels[: size if problem.may("prune_weight_groups") else None]
        shape = shape.with_layer(index, replace(layer, heads=heads, channels=channels))
    return shape


def _next_savings(
    start: Mapping[Resource, float], missing: Mapping[Resource, float], rounds: int
) -> dict[Resource, float]:
    """What is to be saved until the end of the round, by where the narrowing stands."""
    left = max(part / start.get(resource, part) for resource, part in missing.items())
    rounds_left = max(1, round(left * rounds))
    return {resource: part / rounds_left for resource, part in missing.items()}


def _one_round(problem: SearchProblem, shape: Shape, enough: Mapping[Resource, float]) -> list[Element]:
    """Elements to remove before significance is estimated anew: those that save `enough` for the least.

    What a hidden dimension saves hangs on the blocks that are left, and the other way round: the blocks are
    solved for with none, one, two ... of the least significant groups of dimensions gone.
    """
    weights = problem.significance(shape)
    groups = _hidden_groups_by(problem, shape, weights)
    before, best = problem.costs(shape), None
    for count in range(max(1, min(len(groups), MOST_GROUPS + 1))):
        gone, narrower = groups[:count], shape
        for group in gone:
            narrower = group.removed_from(narrower)
        saved = problem.costs(narrower)
        left = {each: part - before.of(each) + saved.of(each) for each, part in enough.items()}
        elements = _of_blocks(
            problem, narrower, weights, {each: part for each, part in left.items() if part > 0}
        )
        if elements is None:
            continue
        lost = sum(weights.of(element) for element in [*gone, *elements])
        if best is None or lost < best[0]:
            best = lost, [*gone, *elements]
    return one_by_one(problem, shape, weights, enough) if best is None else best[1]


def _of_blocks(
    problem: SearchProblem, shape: Shape, weights: Significance, enough: Mapping[Resource, float]
) -> list[Element] | None:
    """Parts of blocks that save `enough` for the least; None where nothing saves that much."""
    if not enough:
        return []
    blocks = block_options(problem, shape, weights, tuple(enough))
    chosen = allocate([block.options for block in blocks], list(enough.values()))
    if chosen is None and problem.native:  # one by one would leave widths that differ
        chosen = [len(block.options) - 1 for block in blocks]
    if chosen is None:
        return None
    return [element for block, at in zip(blocks, chosen, strict=True) for element in block.removals[at]]


def one_by_one(
    problem: SearchProblem, shape: Shape, weights: Significance, enough: Mapping[Resource, float]
) -> list[Element]:
    """The cheapest elements in turns, until as much is saved of one resource or nothing is left."""
    before = problem.costs(shape)
    removed: list[Element] = []
    while (best := _cheapest(problem, shape, weights)) is not None:
        removed.append(best)
        shape = best.removed_from(shape)
        now = problem.costs(shape)
        if any(before.of(resource) - now.of(resource) >= part for resource, part in enough.items()):
            break
    return removed


def _cheapest(problem: SearchProblem, shape: Shape, weights: Significance) -> Element | None:
    """The element with the least significance for the part of the missing costs that it saves."""
    before = problem.costs(shape)
    best: tuple[float, Element] | None = None
    for element in _removable(problem, shape, weights):
        saving = problem.goal.progress(before, problem.costs(element.removed_from(shape)))
        if saving <= 0:
            continue
        price = weights.of(element) / saving
        if best is None or price < best[0]:
            best = (price, element)
    return None if best is None else best[1]


def _removable(problem: SearchProblem, shape: Shape, weights: Significance) -> list[Element]:
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
            size = group_size(problem.anatomy.channels, problem.group_sizes.ffn)
            groups = group_elements(shape, index, size, weights.channel_scores(index))
            # Only the least significant group of a layer can be the cheapest: all save the same.
            elements += groups[:1] if len(groups) > 1 else []
    groups = _hidden_groups_by(problem, shape, weights)
    elements += groups[:1] if len(groups) > 1 else []
    return elements


def _hidden_groups_by(problem: SearchProblem, shape: Shape, weights: Significance) -> list[Element]:
    """`hidden_groups` in that order; none where they may not go, or nothing is known of them."""
    ranking = weights.hidden_scores() if problem.may("prune_hidden") else None
    return [] if ranking is None else hidden_groups(problem, shape, ranking)


def hidden_groups(problem: SearchProblem, shape: Shape, ranking: np.ndarray) -> list[Element]:
    """What is left of the residual stream, in groups from the least significant dimension upwards."""
    width = problem.anatomy.hidden_size
    return hidden_elements(shape, width, group_size(width, problem.group_sizes.hidden), ranking)


def as_steps(removed: Sequence[Element]) -> list[Step]:
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
        elif isinstance(step, PruneHidden) and isinstance(last, PruneHidden):
            both = sorted({*from_ranges(last.dimensions), *from_ranges(step.dimensions)})
            steps[-1] = PruneHidden(dimensions=as_ranges(both))
        else:
            steps.append(step)
    return steps
