"""Widening: give back of what a recipe removes as much as the bounds have room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from models.spec import (
    LearnMasks,
    LowRankEmbeddings,
    LowRankFfn,
    PruneHeads,
    PruneLayers,
    PruneVocabulary,
    PruneWeightGroups,
    Recipe,
    Step,
)
from worker.engine.anatomy.slicing import is_native
from worker.engine.run import Run
from worker.engine.significance.base import Significance
from worker.engine.significance.elements import group_size, head_elements
from worker.engine.stages.learning import keeps_target
from worker.engine.stages.problem import cost_model, significance
from worker.engine.strategies.goal import Goal

LASTING = PruneLayers | PruneVocabulary | LowRankEmbeddings | LowRankFfn | LearnMasks
"""Steps that are not taken back: layers come back in part, tables and ranks were chosen before the search."""


def widened(run: Run, recipe: Recipe, goal: Goal) -> Recipe:
    """The recipe without as many of its last removals as `goal` allows.

    If none is left that could be given back, with as much of the layer that was dropped last as `goal`
    allows: depth goes in whole layers, which may leave up to a layer's time of what the bounds allow.
    """
    costs = cost_model(run)

    def fits(tried: Recipe) -> bool:
        shape = run.shape(tried)
        native = run.spec.constraints.loadable != "native" or is_native(run.anatomy, shape)
        return native and goal.met(costs(shape)) and keeps_target(run, shape)

    shorter = shortest_that_fits(recipe, fits)
    full_width = all(isinstance(step, LASTING) for step in shorter.steps)
    if not full_width or not fits(shorter):
        return shorter
    return next(filter(fits, _with_part_of_a_layer(run, shorter)), shorter)


def shortest_that_fits(recipe: Recipe, fits: Callable[[Recipe], bool]) -> Recipe:
    """The recipe without as many of its last removals as `fits` allows.

    Dropped layers stay dropped, and a table of low rank stays one: it was chosen for its size.
    """
    least = max((n for n, step in enumerate(recipe.steps, 1) if isinstance(step, LASTING)), default=0)
    prefixes = (Recipe(steps=recipe.steps[:kept]) for kept in range(least, len(recipe.steps)))
    return next(filter(fits, prefixes), recipe)


def layer_back(recipe: Recipe) -> tuple[int, Recipe] | None:
    """The layer that was dropped last, and the recipe that keeps it; None where none was dropped."""
    places = [place for place, step in enumerate(recipe.steps) if isinstance(step, PruneLayers)]
    if not places:
        return None
    dropped = recipe.steps[places[-1]]
    assert isinstance(dropped, PruneLayers)
    *others, layer = dropped.layers
    kept: tuple[Step, ...] = (PruneLayers(layers=tuple(others)),) if others else ()
    return layer, Recipe(steps=(*recipe.steps[: places[-1]], *kept, *recipe.steps[places[-1] + 1 :]))


def _with_part_of_a_layer(run: Run, recipe: Recipe) -> Iterator[Recipe]:
    """The recipe with the layer that was dropped last, ever less of it: what is most significant in it.

    Nothing where the layer has the weights of another one, which would lose what this one does.
    """
    back = layer_back(recipe)
    if back is None:
        return
    layer, whole = back
    shape = run.shape(whole)
    if shape.sharing(layer) != (layer,):
        return
    yield whole
    weights = significance(run, run.anatomy, shape)
    heads, groups = run.anatomy.heads, run.anatomy.channels // _group(run)
    for kept in range(max(heads, groups) - 1, 0, -1):
        share = kept / max(heads, groups)
        steps = _thinned(run, weights, layer, share)
        if steps:
            yield whole.then(*steps)


def _thinned(run: Run, weights: Significance, layer: int, share: float) -> list[Step]:
    """Removals that leave about `share` of the layer's heads and channels, by what the job allows."""
    anatomy, steps = run.anatomy, list[Step]()
    heads = anatomy.heads - max(1, round(share * anatomy.heads))
    if heads and "prune_heads" in run.spec.approximations:
        importance = np.array([weights.of(head) for head in head_elements(anatomy.full_shape(), layer)])
        steps.append(PruneHeads(layer=layer, heads=_least(importance, heads)))
    size = _group(run)
    channels = anatomy.channels - max(1, round(share * anatomy.channels / size)) * size
    if channels > 0 and "prune_weight_groups" in run.spec.approximations:
        steps.append(PruneWeightGroups(layer=layer, channels=_least(weights.channel_scores(layer), channels)))
    return steps


def _least(scores: np.ndarray, count: int) -> tuple[int, ...]:
    return tuple(sorted(np.argsort(scores, kind="stable")[:count].tolist()))


def _group(run: Run) -> int:
    """Channels of a weight group."""
    return group_size(run.anatomy.channels, run.spec.group_sizes.ffn)
