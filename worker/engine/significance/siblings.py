"""Siblings: elements of one block, without each of which the model runs in one forward pass together.

What comes before a block's output projection is the same for all of them and is computed once: of weight
groups all but the end of their layer, of heads the attention. Then each has its own copy of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.anatomy import Anatomy, Shape
from worker.engine.anatomy.costs import LayerAmounts, layer_macs
from worker.engine.anatomy.families import Rows
from worker.engine.anatomy.resuming import layer_modules
from worker.engine.anatomy.shape import positions
from worker.engine.significance.elements import Element, Weighed
from worker.engine.significance.projections import BlockKind, Key, projection_modules

TOKENS_TOGETHER = 32_768  # of all copies of a batch: more needs memory and saves nothing


def sibling_sets(elements: Sequence[Weighed], shape: Shape) -> list[list[Weighed]]:
    """The elements, in their order, each with those that can run with it.

    Layers, hidden groups and sparse attention are alone, and so is everything where layers share weights:
    there an element is in several places.
    """
    sets: dict[Any, list[Weighed]] = {}
    for element in elements:
        sets.setdefault(_set_of(element, shape), []).append(element)
    return list(sets.values())


def block_of(element: Element) -> Key:
    """The block that a block, head or group belongs to."""
    return element.layer, "attention" if element.kind in ("attention", "head") else "ffn"


def computed_together(anatomy: Anatomy, shape: Shape, block: Key, siblings: int, length: float) -> float:
    """Layers run on the tokens of one copy, for all siblings, until the end of their layer, by MACs.

    An FFN ends there; after an attention each sibling has an FFN of its own.
    """
    if block[1] == "ffn":
        return 1.0
    whole = shape.layers[block[0]]
    tokens = max(1, round(length))
    ffn, both = (
        layer_macs(
            anatomy.form,
            anatomy.hidden_size,
            anatomy.head_size,
            LayerAmounts.of(layer, anatomy.kv_group),
            tokens,
        )
        for layer in (Element("attention", block[0]).removed_from(shape).layers[block[0]], whole)
    )
    return float(1.0 + (siblings - 1) * ffn / both)


def forked(anatomy: Anatomy, shape: Shape, block: Key, siblings: Sequence[Element], run: Any) -> Any:
    """What the siblings' layer answers without each of them: (siblings * sequences, ...).

    `run()` runs the model masked to `shape` on a batch; it gets no further than that layer.
    """
    position = [part.index for part in anatomy.parts].index(block[0])
    projection = projection_modules(anatomy, shape)[block]
    gone = [_columns(anatomy, shape, block, element) for element in siblings]
    answers: list[Any] = []

    def fork(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        weight = Rows(projection).weight
        return torch.stack([_without(output, args[0], weight, columns) for columns in gone])

    def stop(module: Any, args: Any, output: Any) -> None:
        copies = output[0] if isinstance(output, tuple) else output
        flat = copies.flatten(0, 1)
        answers.append((flat, *output[1:]) if isinstance(output, tuple) else flat)
        raise _FarEnough

    hooks = [
        projection.register_forward_hook(fork),
        layer_modules(anatomy)[position].register_forward_hook(stop),
    ]
    try:
        with suppress(_FarEnough):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return answers[0]


def _set_of(element: Weighed, shape: Shape) -> Any:
    """The block of what can run together, else the element itself."""
    if shape.shares or not isinstance(element, Element) or element.kind in ("layer", "hidden_group"):
        return element
    return block_of(element)


class _FarEnough(Exception):
    """The rest of the model need not run."""


def _without(output: Tensor, inputs: Tensor, weight: Tensor, columns: Tensor | None) -> Tensor:
    """A projection's output less what some columns contribute; without all of them nothing."""
    if columns is None:
        return torch.zeros_like(output)
    with torch.autocast(output.device.type, enabled=False):
        lost = functional.linear(inputs[..., columns].float(), weight[:, columns].float())
    return (output.float() - lost).to(output.dtype)


def _columns(anatomy: Anatomy, shape: Shape, block: Key, element: Element) -> Tensor | None:
    """The columns of the model's projection that go with an element; None for all that `shape` has left."""
    held, left = anatomy.full_shape().layers[block[0]], shape.layers[block[0]]
    kind: BlockKind = block[1]
    if kind == "ffn":
        units = left.channels if element.kind == "ffn" else element.channels
        places = positions(held.channels, units)
        return None if set(units) == set(left.channels) else torch.tensor(places, dtype=torch.long)
    units = left.heads if element.kind == "attention" else (element.number,)
    first = torch.tensor(positions(held.heads, units), dtype=torch.long) * anatomy.head_size
    every = (first[:, None] + torch.arange(anatomy.head_size)).flatten()
    return None if set(units) == set(left.heads) else every
