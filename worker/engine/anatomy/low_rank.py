"""Low-rank forms of weights: how they are worked out, copied, and computed with by a masked model.

A weight W (outputs, inputs) becomes left @ right, (outputs, rank) times (rank, inputs). Without knowledge of
the inputs these have the least squared error in W (Eckart and Young 1936). Where the inputs' second moments C
= E[x x^T] are known, they have the least squared error in the outputs W x: W is projected on the leading
eigenvectors of W C W^T, the principal directions of its outputs. What is pruned is left out first, so the
rank is spent on what stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.engine.anatomy.families import LayerParts, Rows
from worker.engine.export.modeling_axforge import LowRankLinear

if TYPE_CHECKING:
    from worker.engine.anatomy.base import Anatomy

MOMENTS = "input_moments"
Known = tuple[Any, Tensor | None, tuple[Tensor, Tensor]]
_LAST: WeakKeyDictionary[nn.Module, dict[int, Known]] = WeakKeyDictionary()
NOTHING = 1e-12  # of the largest squared singular value: less is rounding


@torch.no_grad()
def directions(weight: Tensor, rank: int) -> Tensor:
    """The leading right singular vectors of (n, m) as rows, (rank, m), worked out in float64."""
    exact = weight.double()
    if len(exact) >= exact.shape[1] or len(exact) < rank:
        vectors = torch.linalg.eigh(exact.T @ exact).eigenvectors[:, -rank:]
    else:  # the other side's vectors are worked out faster, and give these
        values, others = torch.linalg.eigh(exact @ exact.T)
        known = values[-rank:] > NOTHING * values[-1]
        lengths = torch.where(known, values[-rank:], torch.inf).sqrt()
        vectors = exact.T @ others[:, -rank:] / lengths  # where there is nothing, no direction either
    rows: Tensor = vectors.T.to(weight.dtype).contiguous()
    return rows


@contextmanager
def noted_moments(anatomy: Anatomy) -> Iterator[None]:
    """Run the model inside: its FFN's low-rank forms are afterwards those that are best for such inputs.

    What is padding counts, too; feed rows of like length. Layers that share a weight share its inputs.
    """

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs = args[0].detach().flatten(0, -2).float()
        seen = getattr(module, MOMENTS, None)
        moments = inputs.T @ inputs if seen is None else seen + inputs.T @ inputs
        module.register_buffer(MOMENTS, moments, persistent=False)

    modules = {id(module): module for part in anatomy.parts for module in _ffn_modules(part)}
    with ExitStack() as undo:
        for module in modules.values():
            undo.callback(module.register_forward_pre_hook(hook).remove)
        yield
    by_weight: dict[int, list[nn.Module]] = {}
    for module in modules.values():
        by_weight.setdefault(id(next(module.parameters())), []).append(module)
    for sharing in by_weight.values():
        seen = [getattr(module, MOMENTS) for module in sharing if hasattr(module, MOMENTS)]
        for module in sharing if seen else ():
            module.register_buffer(MOMENTS, torch.stack(seen).sum(0), persistent=False)


@torch.no_grad()
def factors(weight: Tensor, rank: int, moments: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(left, right) of the best product of that rank, which is less than both dimensions.

    `moments` are the second ones of the inputs, (inputs, inputs), up to a factor.
    """
    if moments is not None:
        left = directions((weight.double() @ _root(moments)).T, rank).T.to(weight.dtype)
        return left, left.T @ weight
    if weight.shape[0] < weight.shape[1]:
        left = directions(weight.T, rank).T
        return left, left.T @ weight
    right = directions(weight, rank)
    return weight @ right.T, right


@torch.no_grad()
def copy_linear(source: Rows, target: Rows, rows: Tensor | None, columns: Tensor | None) -> None:
    """Copy the outputs `rows` from the inputs `columns` (None: all), in the rank that `target` has."""
    if source.bias is not None and target.bias is not None:
        target.bias.copy_(_cut(source.bias, rows))
    if isinstance(target.linear, LowRankLinear):
        left, right = cut_factors(source, target.linear.inner.out_features, rows, columns)
        target.linear.outer.weight.copy_(left)
        target.linear.inner.weight.copy_(right)
    else:
        target.weight.copy_(_cut(source.weight, rows, columns))


@torch.no_grad()
def cut_factors(
    source: Rows, rank: int, rows: Tensor | None, columns: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Factors of the weight between `columns` and `rows`: its own, cut, where it has that rank already.

    The last ones of each projection are kept: a search masks the same layer in the same way time and again.
    """
    linear = source.linear
    if isinstance(linear, LowRankLinear) and rank == source.rank:
        return _cut(linear.outer.weight, rows), _cut(linear.inner.weight, None, columns)
    moments = getattr(linear, MOMENTS, None)
    weights = linear.outer.weight if isinstance(linear, LowRankLinear) else linear.weight
    key = rank, _listed(rows), _listed(columns), weights._version
    known = _LAST.get(linear, {}).get(source.part)
    if known is None or known[0] != key or known[1] is not moments:
        cut = None if moments is None else _cut(moments, columns, columns)
        known = key, moments, factors(_cut(source.weight, rows, columns), rank, cut)
        _LAST.setdefault(linear, {})[source.part] = known
    return known[2]


@contextmanager
def in_rank(source: Rows, rank: int, rows: Tensor | None, columns: Tensor | None) -> Iterator[None]:
    """While it lasts, the projection computes what its copy of that rank, with those rows and columns, would.

    Other outputs of its part are 0, other inputs are ignored.
    """
    bias = None if source.bias is None else _cut(source.bias, rows)
    left, right = cut_factors(source, rank, rows, columns)
    first = source.part * source.outputs
    places = torch.arange(source.outputs) if rows is None else rows

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden = args[0] if columns is None else args[0][..., columns.to(args[0].device)]
        small = functional.linear(functional.linear(hidden, right), left, bias)
        if rows is None and source.of == 1:
            return small
        whole = output.clone()
        whole[..., first : first + source.outputs] = 0.0
        whole[..., first + places.to(output.device)] = small.to(output.dtype)
        return whole

    handle = source.linear.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _ffn_modules(part: LayerParts) -> list[nn.Module]:
    ups: list[nn.Module] = [up.linear for up in part.ffn_ups]
    return ups if part.ffn_down is None else [*ups, part.ffn_down]


def _listed(indices: Tensor | None) -> list[int] | None:
    return None if indices is None else indices.tolist()


def _root(moments: Tensor) -> Tensor:
    """A matrix R with R R^T = moments, in float64."""
    values, vectors = torch.linalg.eigh(moments.double())
    root: Tensor = vectors * values.clamp_min(0.0).sqrt()
    return root


def _cut(value: Tensor, rows: Tensor | None, columns: Tensor | None = None) -> Tensor:
    if rows is not None:
        value = value[rows.to(value.device)]
    return value if columns is None else value[:, columns.to(value.device)]
