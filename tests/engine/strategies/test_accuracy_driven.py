"""The published accuracy-driven algorithm, against losses written down by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.spec import (
    HardAttention,
    PruneBlocks,
    PruneHeads,
    PruneWeightGroups,
    Recipe,
    SignMatchingAttention,
)
from tests.engine.strategies.problems import BASE, ROWS, flat, problem
from worker.engine.anatomy import Shape
from worker.engine.strategies import STRATEGIES
from worker.engine.strategies.accuracy_driven import accuracy_driven
from worker.engine.strategies.base import SearchStep

LAYERS = 3


def tried(steps: list[SearchStep]) -> list[str]:
    """What each candidate changed last."""
    names = []
    for step in steps:
        match step.candidate.recipe.steps[-1]:
            case HardAttention(layer=layer, heads=heads):
                names.append(f"{layer}.hard" + (f".head.{heads[0]}" if heads else ""))
            case SignMatchingAttention(layer=layer, variant=variant, heads=heads):
                names.append(f"{layer}.{variant}" + (f".head.{heads[0]}" if heads else ""))
            case PruneBlocks(blocks=(block,)):
                names.append(block.removeprefix("layer."))
            case PruneHeads(layer=layer, heads=(head,)):
                names.append(f"{layer}.head.{head}")
            case PruneWeightGroups(layer=layer, channels=channels):
                names.append(f"{layer}.group.{channels[0]}")
    return names


def without_ffn(shape: Shape, layer: int) -> bool:
    return not shape.layers[layer].channels


def test_the_order_is_sparse_attention_upwards_then_blocks_downwards_ffn_first() -> None:
    # Ten per cent worse at once: no block is looked into.
    steps = list(accuracy_driven(problem(lambda shape: BASE if _full(shape) else BASE * 1.2), None))
    assert tried(steps) == [
        *["0.hard", "1.hard", "2.hard"],
        *["0.softmax", "1.softmax", "2.softmax", "0.average", "1.average", "2.average"],
        *["2.ffn", "2.attention", "1.ffn", "1.attention", "0.ffn", "0.attention"],
    ]
    assert not any(step.candidate.accepted for step in steps)


def test_only_a_strictly_lower_loss_is_accepted() -> None:
    assert not any(step.candidate.accepted for step in accuracy_driven(problem(flat), None))


def test_the_running_minimum_falls_with_every_accepted_change() -> None:
    def losses(shape: Shape) -> np.ndarray:
        # Without the last FFN 0.9; any other change on its own would give 0.95, which is too late then.
        return BASE * (0.9 if without_ffn(shape, 2) and _changes(shape) == 1 else _factor(shape))

    def _factor(shape: Shape) -> float:
        return 1.0 if _full(shape) else 0.95

    steps = list(accuracy_driven(problem(losses, allowed=frozenset({"prune_blocks"})), None))
    accepted = [name for name, step in zip(tried(steps), steps, strict=True) if step.candidate.accepted]
    assert accepted == ["2.ffn"]
    assert Recipe.model_validate(steps[-1].state["recipe"]).steps == (PruneBlocks(blocks=("layer.2.ffn",)),)


def test_more_than_half_of_the_samples_must_do_no_worse_than_unpruned() -> None:
    def half_worse(shape: Shape) -> np.ndarray:
        if _full(shape):
            return BASE
        losses = BASE * 0.5
        losses[: ROWS // 2] = BASE[: ROWS // 2] + 0.01
        return losses

    def one_fewer_worse(shape: Shape) -> np.ndarray:
        losses = half_worse(shape)
        return losses if _full(shape) else np.where(np.arange(ROWS) == 0, BASE, losses)

    assert not any(step.candidate.accepted for step in accuracy_driven(problem(half_worse), None))
    assert any(step.candidate.accepted for step in accuracy_driven(problem(one_fewer_worse), None))


def test_a_block_that_stays_is_looked_into_only_below_the_published_ratio() -> None:
    def losses(shape: Shape) -> np.ndarray:
        return BASE * (1.09 if without_ffn(shape, 2) else 1.0 if _full(shape) else 1.11)

    names = tried(list(accuracy_driven(problem(losses), None)))
    groups = [name for name in names if ".group." in name]
    assert groups == [f"2.group.{channel}" for channel in range(0, 24, 2)]
    assert not [name for name in names if ".head." in name]
    assert names.index("2.group.0") == names.index("2.ffn") + 1


def test_heads_of_a_layer_that_did_not_become_sparse_come_last() -> None:
    """Within a tenth of the lowest loss only; those that are accepted stay, and what is gone is not tried."""

    def losses(shape: Shape) -> np.ndarray:
        layer = shape.layers[1]
        if {each.head for each in layer.sparse} == {2}:
            return BASE * 0.7
        if layer.heads == (0, 1, 2):
            return BASE * 0.8
        if not layer.heads:
            return BASE * 1.09
        return BASE * (1.05 if layer.sparse else 1.0 if _full(shape) else 1.2)

    allowed = frozenset({"hard_attention", "prune_blocks", "prune_heads"})
    steps = list(accuracy_driven(problem(losses, allowed=allowed), None))
    names = tried(steps)
    assert names[:3] == ["0.hard", "1.hard", "2.hard"]
    assert "1.head.3" in names
    assert names[-3:] == ["1.hard.head.0", "1.hard.head.1", "1.hard.head.2"]
    assert not [name for name in names if name.startswith(("0.hard.", "2.hard."))]
    accepted = [name for name, step in zip(names, steps, strict=True) if step.candidate.accepted]
    assert accepted == ["1.head.3", "1.hard.head.2"]
    last = Recipe.model_validate(steps[-1].state["recipe"]).steps[-1]
    assert last == HardAttention(layer=1, top_k=30, heads=(2,))


def test_what_reads_all_tokens_anyway_is_not_tried() -> None:
    allowed = frozenset({"hard_attention", "sign_matching_attention"})
    short = tried(list(accuracy_driven(problem(flat, allowed=allowed, longest=30), None)))
    assert {name.split(".")[1] for name in short if name.count(".") == 1} == {"average", "ffn", "attention"}
    long = tried(list(accuracy_driven(problem(flat, allowed=allowed, longest=31), None)))
    assert {name.split(".")[1] for name in long} == {"hard", "softmax", "average", "ffn", "attention"}


def test_what_the_job_does_not_allow_is_not_done() -> None:
    better_without = problem(lambda shape: BASE if _full(shape) else BASE * 0.9)

    def names(allowed: set[str]) -> list[str]:
        steps = accuracy_driven(problem(better_without_losses, allowed=frozenset(allowed)), None)
        return [step.candidate.recipe.steps[-1].approximation for step in steps if step.candidate.accepted]

    def better_without_losses(shape: Shape) -> np.ndarray:
        return BASE * (1.0 - 0.01 * _changes(shape))

    assert set(names({"prune_heads"})) == {"prune_heads"}
    assert set(names({"hard_attention"})) == {"hard_attention"}
    assert set(names({"sign_matching_attention"})) == {"sign_matching_attention"}
    assert better_without.may("quantize")


def test_resuming_from_any_state_gives_the_same_candidates() -> None:
    def losses(shape: Shape) -> np.ndarray:
        return BASE * (1.0 - 0.01 * len(shape.layers[1].heads) % 3 - 0.001 * _changes(shape))

    asked = problem(losses)
    whole = list(accuracy_driven(asked, None))
    for stop in range(0, len(whole), 5):
        rest = list(accuracy_driven(asked, whole[stop].state))
        assert [step.candidate for step in rest] == [step.candidate for step in whole[stop + 1 :]]


def test_bounds_that_accuracy_does_not_reach_are_met_by_going_on() -> None:
    from worker.engine.strategies.goal import Goal

    asked = problem(flat, focus="accuracy")
    goal = Goal(ms=asked.dense.ms / 2)
    asked = problem(flat, focus="accuracy", goal=goal)
    last = list(STRATEGIES["axformer"].search(asked, None))[-1]
    shape = asked.anatomy.full_shape().applied(Recipe.model_validate(last.state["recipe"]))
    assert goal.met(asked.costs(shape))


def _full(shape: Shape) -> bool:
    return _changes(shape) == 0


def _changes(shape: Shape) -> int:
    """How many parts of the tiny BERT (3 layers, 4 heads, 24 channels) are gone or hard."""
    count: Any = sum(
        (4 - len(layer.heads)) + (24 - len(layer.channels)) // 2 + len(layer.sparse)
        if layer.heads and layer.channels
        else 1
        for layer in shape.layers
    )
    return int(count)
