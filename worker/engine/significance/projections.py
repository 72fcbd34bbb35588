"""Output projections (of attention, and of the FFN) with the second moments of what comes into them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from worker.engine.anatomy import Anatomy, Shape
from worker.engine.anatomy.families import Rows
from worker.engine.anatomy.shape import positions
from worker.engine.significance.base import Material
from worker.engine.significance.elements import Element

BlockKind = Literal["attention", "ffn"]
Key = tuple[int, BlockKind]
DAMPING = 0.01  # of the mean second moment, on the diagonal, as GPTQ has it (Frantar et al. 2023)


@dataclass(frozen=True)
class OutputProjection:
    """What a shape leaves of one output projection W, as the least-squares problem of its inputs x.

    `units`: dense indices of the heads or channels that are left, each `width` columns; `weight`
    (outputs, columns) and `moments` E[x x^T] over tokens (columns, columns), in float64, in the order of
    `units`.
    """

    units: tuple[int, ...]
    width: int
    weight: Tensor
    moments: Tensor

    @cached_property
    def inverse(self) -> Tensor:
        """Of the moments, damped so that it exists, (columns, columns)."""
        return torch.cholesky_inverse(torch.linalg.cholesky(damped(self.moments)))

    def columns(self, units: tuple[int, ...]) -> Tensor:
        """The columns of some units that are left."""
        first = torch.tensor(positions(self.units, units), dtype=torch.long) * self.width
        return (first[:, None] + torch.arange(self.width)).flatten()


class OutputProjections:
    """Those of all blocks that a shape leaves. Layers that share weights have one together."""

    def __init__(self, shape: Shape, found: dict[Key, OutputProjection]) -> None:
        self._shape = shape
        self._found = found

    def __getitem__(self, key: Key) -> OutputProjection:
        return self._found[self._shape.sharing(key[0])[0], key[1]]

    def units(self, element: Element) -> list[tuple[Key, tuple[int, ...]]]:
        """The heads and channels that go with an element, by the blocks that have them."""
        layer = self._shape.layers[element.layer]
        attention: Key = (element.layer, "attention")
        ffn: Key = (element.layer, "ffn")
        gone: dict[str, dict[Key, tuple[int, ...]]] = {
            "layer": {attention: layer.heads, ffn: layer.channels},
            "attention": {attention: layer.heads},
            "ffn": {ffn: layer.channels},
            "head": {attention: (element.number,)},
            "group": {ffn: element.channels},
        }
        return [(key, units) for key, units in gone[element.kind].items() if units]


def output_projections(material: Material) -> OutputProjections:
    """Of the masked model on the rows, by one forward pass."""
    shape, anatomy, device = material.shape, material.anatomy, material.device
    sums: dict[Key, Tensor] = {}
    tokens: dict[Key, int] = {}
    anatomy.model.to(device.torch_device).eval()
    material.count(1)
    for batch in material.rows.batches(material.batch_size):
        with torch.no_grad(), anatomy.masked(shape), tapped(anatomy, shape) as taps:
            with device.autocast(material.precision):
                anatomy.model(**device.put(batch.inputs))
            for (layer, kind), inputs in taps.items():
                key: Key = (shape.sharing(layer)[0], kind)
                real = inputs[batch.mask.to(inputs.device)].float()
                moments = (real.T @ real).double()
                sums[key] = sums[key] + moments if key in sums else moments
                tokens[key] = tokens.get(key, 0) + len(real)
    found = {
        key: _projection(anatomy, shape, key, moments.cpu() / tokens[key]) for key, moments in sums.items()
    }
    return OutputProjections(shape, found)


@contextmanager
def tapped(anatomy: Anatomy, shape: Shape) -> Iterator[dict[Key, Tensor]]:
    """Inside, every forward pass leaves here what comes into each output projection that `shape` leaves.

    (sequences, length, columns) of all columns that the model has. Enter it after `masked` and `gated`.
    """
    taps: dict[Key, Tensor] = {}

    def tap(key: Key, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        taps[key] = args[0]

    with ExitStack() as undo:
        for key, module in projection_modules(anatomy, shape).items():
            undo.callback(module.register_forward_pre_hook(partial(tap, key)).remove)
        yield taps


def projection_modules(anatomy: Anatomy, shape: Shape) -> dict[Key, Any]:
    """The output projections of the blocks that `shape` leaves, first layer first."""
    modules: dict[Key, Any] = {}
    for part in anatomy.parts:
        layer = shape.layers[part.index]
        if layer.present and layer.heads:
            modules[part.index, "attention"] = part.attention_output
        if layer.present and layer.channels:
            modules[part.index, "ffn"] = part.ffn_down
    return modules


def kept_columns(anatomy: Anatomy, shape: Shape, key: Key) -> Tensor:
    """Which columns of the model's projection `shape` keeps, by their places in the model."""
    held, kept = anatomy.full_shape().layers[key[0]], shape.layers[key[0]]
    if key[1] == "ffn":
        return torch.tensor(positions(held.channels, kept.channels), dtype=torch.long)
    heads = torch.tensor(positions(held.heads, kept.heads), dtype=torch.long)
    return (heads[:, None] * anatomy.head_size + torch.arange(anatomy.head_size)).flatten()


def damped(moments: Tensor, damping: float = DAMPING) -> Tensor:
    """Moments with `damping` times their mean added to the diagonal; never singular."""
    mean = moments.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    return moments + damping * mean * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)


def _projection(anatomy: Anatomy, shape: Shape, key: Key, moments: Tensor) -> OutputProjection:
    columns, layer = kept_columns(anatomy, shape, key), shape.layers[key[0]]
    weight = Rows(projection_modules(anatomy, shape)[key]).weight.detach().double().cpu()[:, columns]
    units, width = (layer.heads, anatomy.head_size) if key[1] == "attention" else (layer.channels, 1)
    return OutputProjection(units, width, weight, moments[columns][:, columns])
