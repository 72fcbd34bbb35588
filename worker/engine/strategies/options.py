"""What may be left of every block, with what the task loses by it and what it saves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from worker.engine.anatomy.shape import Shape
from worker.engine.significance.base import Significance
from worker.engine.significance.elements import (
    Element,
    group_elements,
    group_size,
    head_elements,
)
from worker.engine.strategies.allocation import Option
from worker.engine.strategies.base import SearchProblem
from worker.engine.strategies.goal import Resource


@dataclass(frozen=True)
class Block:
    """Ways to leave one block: `removals[n]` is what `options[n]` takes away; the first takes nothing."""

    name: str
    removals: tuple[tuple[Element, ...], ...]
    options: tuple[Option, ...]


def block_options(
    problem: SearchProblem, shape: Shape, weights: Significance, resources: tuple[Resource, ...]
) -> list[Block]:
    """Every attention and FFN block of `shape` with its options, which save so much of `resources`.

    Heads and weight groups of a block go from the least significant one on; the last one goes with its
    block. Layers of the same weights count as one. Significances are added up. Where only native shapes
    are wanted, the FFNs of all layers are one block, which loses as many groups in each.
    """
    before = problem.costs(shape)

    def option(removal: tuple[Element, ...]) -> Option:
        without = shape
        for element in removal:
            without = element.removed_from(without)
        after = problem.costs(without)
        return Option(
            sum(weights.of(element) for element in removal),
            tuple(max(0.0, before.of(resource) - after.of(resource)) for resource in resources),
        )

    return [
        Block(name, removals, tuple(option(removal) for removal in removals))
        for name, removals in (_native_removals if problem.native else _removals)(problem, shape, weights)
    ]


def _removals(
    problem: SearchProblem, shape: Shape, weights: Significance
) -> Iterator[tuple[str, tuple[tuple[Element, ...], ...]]]:
    for index, layer in enumerate(shape.layers):
        if not shape.leads(index):
            continue
        if layer.heads:
            heads = sorted(head_elements(shape, index), key=weights.of)
            yield _block(problem, Element("attention", index), heads if problem.may("prune_heads") else [])
        if layer.channels:
            size, ranking = (
                group_size(problem.anatomy.channels, problem.group_sizes.ffn),
                weights.channel_scores(index),
            )
            groups = group_elements(shape, index, size, ranking)
            yield _block(problem, Element("ffn", index), groups if problem.may("prune_weight_groups") else [])


def _native_removals(
    problem: SearchProblem, shape: Shape, weights: Significance
) -> Iterator[tuple[str, tuple[tuple[Element, ...], ...]]]:
    size = group_size(problem.anatomy.channels, problem.group_sizes.ffn)
    layers = [
        group_elements(shape, index, size, weights.channel_scores(index))
        for index in range(len(shape.layers))
        if shape.leads(index)
    ]
    counts = range(min(map(len, layers)) if problem.may("prune_weight_groups") else 1)
    yield "ffn", tuple(tuple(group for groups in layers for group in groups[:count]) for count in counts)


def _block(
    problem: SearchProblem, whole: Element, parts: list[Element]
) -> tuple[str, tuple[tuple[Element, ...], ...]]:
    """Nothing, ever more of the parts (never all of them), and the whole block where that may go."""
    partly = [tuple(parts[:count]) for count in range(max(1, len(parts)))]
    gone = [(whole,)] if problem.may("prune_blocks") else []
    return whole.id, (*partly, *gone)
