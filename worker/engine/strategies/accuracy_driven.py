"""Accuracy-driven pruning, as AxFormer's authors publish it: remove what hinders the task.

One greedy pass without training (arXiv 2010.03688 v2; the published code's `run_predictions.py`). A
change is kept only if the validation loss falls strictly below the lowest loss so far, and more than half
of the validation samples do no worse than in the unpruned model (the guard against over-fitting).
Selective hard attention is tried first, layers in ascending order; then pruning, last layer first, the
FFN block before the attention block. Inside a block that stays, weight groups or heads are tried only if
removing the block left the loss below 1.1 times the lowest.

Ours: sign matching, where it is allowed, comes between the two, in the same way; and the single heads of a
layer that did not become sparse, by the same rule as those of a block, come last, so that the published
order stays and a budget that ends early cuts the finest decisions. And a change that cannot be kept any more
is given up before all samples are looked at (`worker.engine.significance.sequential`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from models.spec import Candidate, Recipe, Step
from worker.engine.anatomy.shape import Shape
from worker.engine.significance.elements import (
    Element,
    group_elements,
    group_size,
    head_elements,
)
from worker.engine.significance.sparse_elements import SparseElement, sparse_kinds, sparse_layers
from worker.engine.strategies.base import (
    Abandoned,
    Bar,
    Judgement,
    SearchProblem,
    SearchStep,
    measured,
)

LOOK_INSIDE_BELOW = 1.1  # times the lowest loss; the published code's number


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
    while state["number"] < problem.max_candidates:
        state = {**state, "pending": _that_change_something(full, state)}
        if not state["pending"]:
            return
        step = _try_next(problem, full, base, state)
        state = step.state
        yield step


def _first_queue(problem: SearchProblem, full: Shape) -> list[str]:
    """Names of the changes to try, in the published order; children are put in as blocks are tried."""
    layers = range(len(full.layers))
    kinds = sparse_kinds(problem.allowed, problem.longest)
    sparse = [element.id for kind in kinds for element in sparse_layers(full, kind)]
    # Of layers that share their weights the first stands for all.
    pruned = [layer for layer in reversed(layers) if not full.layers[layer].present or full.leads(layer)]
    blocks = [f"layer.{layer}.{kind}" for layer in pruned for kind in ("ffn", "attention")]
    return sparse + blocks


def _that_change_something(full: Shape, state: dict[str, Any]) -> list[str]:
    """What is pending, without what was decided already: such as heads that are gone by now."""
    shape = full.applied(Recipe.model_validate(state["recipe"])).normalised()
    pending: list[str] = state["pending"]
    for at, name in enumerate(pending):
        sparse = SparseElement.named(name)
        if sparse is None or sparse.removed_from(shape) != shape:
            return pending[at:]
    return []


def _try_next(problem: SearchProblem, full: Shape, base: Judgement, state: dict[str, Any]) -> SearchStep:
    name, *pending = state["pending"]
    recipe = Recipe.model_validate(state["recipe"])
    change = _change(problem, name, full)
    tried = recipe.then(change)
    parts = _parts(problem, name, full)
    inside = bool(parts)
    judgement = _judged(problem, full.applied(recipe), full.applied(tried), inside=inside)
    problem.tell(f"trying {change.approximation} on {name}", state["number"] + 1, None)

    if isinstance(judgement, Abandoned):
        accepted, lowest, reason = False, state["lowest"], _reason_of_abandoning(judgement, inside)
    else:
        no_worse = int(np.sum(judgement.losses <= base.losses))
        guard = len(base.losses) // 2
        lower = judgement.loss < state["lowest"]
        may_remove = not _is_block(name) or problem.may("prune_blocks")
        accepted = may_remove and lower and no_worse > guard
        lowest = judgement.loss if accepted else state["lowest"]
        reason = _reason(accepted, may_remove, lower, no_worse, guard, judgement.loss, state["lowest"])
        if inside and not accepted and judgement.loss < LOOK_INSIDE_BELOW * state["lowest"]:
            pending = _with_parts(name, parts, pending)
    score = None if isinstance(judgement, Abandoned) else judgement
    candidate = Candidate(
        number=state["number"],
        stage="search",
        recipe=tried,
        measurements=measured(problem, full.applied(tried), score),
        accepted=accepted,
        reason=reason,
    )
    return SearchStep(
        candidate,
        {
            "number": state["number"] + 1,
            "recipe": (tried if accepted else recipe).model_dump(mode="json"),
            "lowest": lowest,
            "pending": pending,
        },
    )


def _judged(problem: SearchProblem, rival: Shape, shape: Shape, *, inside: bool) -> Judgement | Abandoned:
    """Judge a change as far as it takes to decide; `inside`: whether to look inside hangs on it, too."""
    if problem.contest is None:
        return problem.judge(shape)
    return problem.contest(rival, shape, Bar(LOOK_INSIDE_BELOW if inside else 1.0, guarded=not inside))


def _change(problem: SearchProblem, name: str, full: Shape) -> Step:
    layer = int(name.split(".")[1])
    if (sparse := SparseElement.named(name)) is not None:
        return sparse.step()
    candidates = [
        Element("ffn", layer),
        Element("attention", layer),
        *head_elements(full, layer),
        *_groups(problem, full, layer),
    ]
    return next(element for element in candidates if element.id == name).step()


def _groups(problem: SearchProblem, full: Shape, layer: int) -> list[Element]:
    size = group_size(len(full.layers[layer].channels), problem.group_sizes.ffn)
    return group_elements(full, layer, size)


def _is_block(name: str) -> bool:
    return name.endswith((".ffn", ".attention"))


def _parts(problem: SearchProblem, name: str, full: Shape) -> list[str]:
    """Names of what is tried by itself if the whole is not accepted."""
    sparse = SparseElement.named(name)
    if sparse is not None:
        return [head.id for head in sparse.by_head(full)] if sparse.head is None else []
    return [child.id for child in _children(problem, name, full)] if _is_block(name) else []


def _with_parts(name: str, parts: list[str], pending: list[str]) -> list[str]:
    """Parts of blocks come next, single heads that read less come last."""
    return pending + parts if SparseElement.named(name) is not None else parts + pending


def _children(problem: SearchProblem, block: str, full: Shape) -> list[Element]:
    layer = int(block.split(".")[1])
    if block.endswith(".ffn"):
        # Groups of one layer alone would leave FFNs of several widths.
        may = problem.may("prune_weight_groups") and not problem.native
        return _groups(problem, full, layer) if may else []
    return head_elements(full, layer) if problem.may("prune_heads") else []


def _reason_of_abandoning(judgement: Abandoned, inside: bool) -> str:
    bar = f"{LOOK_INSIDE_BELOW:g} times the lowest loss" if inside else "what an accepted change must reach"
    return f"given up after {judgement.seen} of {judgement.rows} samples: it is not below {bar}"


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
