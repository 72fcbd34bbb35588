"""Accuracy-driven pruning, as AxFormer's authors publish it: remove what hinders the task.

One greedy pass without training (arXiv 2010.03688 v2; the published code's `run_predictions.py`).
A change is kept only if the validation loss falls strictly below the lowest loss so far, and more than
half of the validation samples do no worse than in the unpruned model (the guard against over-fitting).
Selective hard attention is tried first, layers in ascending order; then pruning, last layer first, the
FFN block before the attention block. Inside a block that stays, weight groups or heads are tried only
if removing the block left the loss below 1.1 times the lowest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from models.spec import Candidate, HardAttention, Recipe, Step
from worker.engine.anatomy.shape import Shape
from worker.engine.significance.elements import (
    Element,
    group_elements,
    group_size,
    head_elements,
)
from worker.engine.strategies.base import Judgement, SearchProblem, SearchStep, measured

LOOK_INSIDE_BELOW = 1.1  # times the lowest loss; the published code's number
TOP_K = 30  # "works well for all the GLUE tasks", published code


def accuracy_driven(problem: SearchProblem, state: dict[str, Any] | None) -> Iterator[SearchStep]:
    """Yield every tried change as a candidate; the state's `recipe` holds the accepted ones."""
    full = problem.anatomy.full_shape()
    base = problem.judge(full.applied(problem.start))
    if state is None:
        state = {
            "number": 0,
            "recipe": problem.start.model_dump(mode="json"),
            "lowest": base.loss,
            "pending": _first_queue(problem, full),
        }
    while state["pending"] and state["number"] < problem.max_candidates:
        step = _try_next(problem, full, base, state)
        state = step.state
        yield step


def _first_queue(problem: SearchProblem, full: Shape) -> list[str]:
    """Names of the changes to try, in the published order; children are put in as blocks are tried."""
    layers = range(len(full.layers))
    hard = [f"layer.{layer}.hard" for layer in layers] if problem.may("hard_attention") else []
    # Of layers that share their weights the first stands for all.
    pruned = [layer for layer in reversed(layers) if not full.layers[layer].present or full.leads(layer)]
    blocks = [f"layer.{layer}.{kind}" for layer in pruned for kind in ("ffn", "attention")]
    return hard + blocks


def _try_next(problem: SearchProblem, full: Shape, base: Judgement, state: dict[str, Any]) -> SearchStep:
    name, *pending = state["pending"]
    recipe = Recipe.model_validate(state["recipe"])
    change = _change(name, full)
    tried = recipe.then(change)
    judgement = problem.judge(full.applied(tried))
    problem.tell(f"trying {change.approximation} on {name}", state["number"] + 1, None)

    no_worse = int(np.sum(judgement.losses <= base.losses))
    guard = len(base.losses) // 2
    lower = judgement.loss < state["lowest"]
    may_remove = not _is_block(name) or problem.may("prune_blocks")
    accepted = may_remove and lower and no_worse > guard
    if _is_block(name) and not accepted and judgement.loss < LOOK_INSIDE_BELOW * state["lowest"]:
        pending = [child.id for child in _children(problem, name, full)] + pending
    candidate = Candidate(
        number=state["number"],
        stage="search",
        recipe=tried,
        measurements=measured(problem, full.applied(tried), judgement),
        accepted=accepted,
        reason=_reason(accepted, may_remove, lower, no_worse, guard, judgement.loss, state["lowest"]),
    )
    return SearchStep(
        candidate,
        {
            "number": state["number"] + 1,
            "recipe": (tried if accepted else recipe).model_dump(mode="json"),
            "lowest": judgement.loss if accepted else state["lowest"],
            "pending": pending,
        },
    )


def _change(name: str, full: Shape) -> Step:
    layer = int(name.split(".")[1])
    if name.endswith(".hard"):
        return HardAttention(layer=layer, top_k=TOP_K)
    candidates = [
        Element("ffn", layer),
        Element("attention", layer),
        *head_elements(full, layer),
        *_groups(full, layer),
    ]
    return next(element for element in candidates if element.id == name).step()


def _groups(full: Shape, layer: int) -> list[Element]:
    return group_elements(full, layer, group_size(len(full.layers[layer].channels)))


def _is_block(name: str) -> bool:
    return name.endswith((".ffn", ".attention"))


def _children(problem: SearchProblem, block: str, full: Shape) -> list[Element]:
    layer = int(block.split(".")[1])
    if block.endswith(".ffn"):
        return _groups(full, layer) if problem.may("prune_weight_groups") else []
    return head_elements(full, layer) if problem.may("prune_heads") else []


def _reason(
    accepted: bool, may_remove: bool, lower: bool, no_worse: int, guard: int, loss: float, lowest: float
) -> str:
    if accepted:
        return f"loss {loss:.5f} is below the lowest so far, {lowest:.5f}"
    if not may_remove:
        return "measured to decide whether to look inside; prune_blocks is not among the approximations"
    if not lower:
        return f"loss {loss:.5f} is not below the lowest so far, {lowest:.5f}"
    return f"only {no_worse} samples do no worse than in the dense model; more than {guard} are needed"
