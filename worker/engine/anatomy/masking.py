"""Running a model as if parts were removed, or with gates on them, by forward hooks only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from worker.engine.anatomy.families import LayerParts, Rows
from worker.engine.anatomy.hidden import Narrowing, dimensions, points, weighted
from worker.engine.anatomy.low_rank import in_rank
from worker.engine.anatomy.shape import LayerShape, Shape, positions
from worker.engine.anatomy.sparse import sparse_heads
from worker.engine.anatomy.vocabulary import projected, renumbered
from worker.engine.approximations.sparse_heads import grouped

if TYPE_CHECKING:
    from worker.engine.anatomy.base import Anatomy


@dataclass(frozen=True)
class Gates:
    """Factors on the context of each head, each FFN activation and each dimension of the residual stream, by
    dense index. `hidden` is None where it was not asked for."""

    heads: Tensor
    channels: Tensor
    hidden: Tensor | None = None


@contextmanager
def masked(
    model: PreTrainedModel,
    embeddings: nn.Module,
    parts: tuple[LayerParts, ...],
    full: Shape,
    shape: Shape,
    head_size: int,
    token_ids: Tensor | None,
    narrower: Narrowing | None,
) -> Iterator[None]:
    """See `Anatomy.masked`. `shape` is within `full`, both normalised; `token_ids`: see `renumbered`.

    `narrower` is what `shape` leaves of the residual stream. Embeddings are of it where they are as wide.
    """
    device, hidden = model.device, None if narrower is None else narrower.kept
    with ExitStack() as undo:
        undo.enter_context(renumbered(model, token_ids))
        if shape.embedding_rank != full.embedding_rank and shape.embedding_rank is not None:
            columns = hidden if narrower is not None and narrower.embeddings else None
            undo.enter_context(projected(model, embeddings, shape.embedding_rank, token_ids, columns))
        if narrower is not None:
            undo.enter_context(weighted(narrower.points, narrower.factor))
        for part in parts:
            held, kept = full.layers[part.index], shape.layers[part.index]
            for handle in _layer_hooks(part, held, kept, head_size, device):
                undo.callback(handle.remove)
            for low in _low_rank_ffn(part, held, kept, hidden):
                undo.enter_context(low)
            sparse = grouped(kept.sparse, held.heads)
            if sparse:
                undo.enter_context(sparse_heads(model, part, sparse))
        yield


@contextmanager
def gated(anatomy: Anatomy, batch_size: int | None, hidden: bool) -> Iterator[Gates]:
    """See `Anatomy.gated`."""
    batch = () if batch_size is None else (batch_size,)

    def ones(*sizes: int) -> Tensor:
        return torch.ones((*batch, *sizes), device=anatomy.model.device, requires_grad=True)

    gates = Gates(
        ones(anatomy.layers, anatomy.heads),
        ones(anatomy.layers, anatomy.channels),
        ones(anatomy.hidden_size) if hidden else None,
    )
    with ExitStack() as undo:
        if gates.hidden is not None:
            held_dimensions = list(dimensions(anatomy, anatomy.full_shape()))
            own = tuple(point for point in points(anatomy) if not point.common)
            undo.enter_context(weighted(own, gates.hidden[..., held_dimensions]))
        for part in anatomy.parts:
            held = anatomy.full_shape().layers[part.index]
            if part.attention_output is not None:
                of_heads = gates.heads[..., part.index, list(held.heads)]
                factor = of_heads.repeat_interleave(anatomy.head_size, -1)
                undo.callback(_scaled_input(part.attention_output, factor).remove)
            if part.ffn_down is not None:
                factor = gates.channels[..., part.index, list(held.channels)]
                undo.callback(_scaled_input(part.ffn_down, factor).remove)
        yield gates


def _layer_hooks(
    part: LayerParts, held: LayerShape, kept: LayerShape, head_size: int, device: torch.device
) -> Iterator[RemovableHandle]:
    if not kept.present:
        yield part.module.register_forward_hook(_input_as_output, with_kwargs=True)
        return
    if part.attention_output is not None and kept.heads != held.heads:
        factor = _kept(held.heads, kept.heads, device).repeat_interleave(head_size)
        yield _without(part.attention_output, factor)
    if part.ffn_down is not None and kept.channels != held.channels:
        yield _without(part.ffn_down, _kept(held.channels, kept.channels, device))


def _low_rank_ffn(
    part: LayerParts, held: LayerShape, kept: LayerShape, hidden: Tensor | None
) -> Iterator[AbstractContextManager[None]]:
    if kept.ffn_rank is None or kept.ffn_rank == held.ffn_rank:
        return
    assert part.ffn_down is not None
    channels = torch.tensor(positions(held.channels, kept.channels))
    for up in part.ffn_ups:
        yield in_rank(up, kept.ffn_rank, rows=channels, columns=hidden)
    yield in_rank(Rows(part.ffn_down), kept.ffn_rank, rows=hidden, columns=channels)


def _kept(held: tuple[int, ...], kept: tuple[int, ...], device: torch.device) -> Tensor:
    wanted = set(kept)
    return torch.tensor([float(index in wanted) for index in held], device=device)


def _without(projection: nn.Module, factor: Tensor) -> RemovableHandle:
    """Nothing kept: the block adds nothing, not even its bias. Else the rest contributes 0."""
    if not factor.any():
        return projection.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    return _scaled_input(projection, factor)


def _scaled_input(projection: nn.Module, factor: Tensor) -> RemovableHandle:
    """Multiply the input (batch, length, width) by (width,) or, per example, (batch, width).

    OPT hands its FFN the tokens of all examples after each other, (batch * length, width).
    """
    aligned = factor.unsqueeze(1) if factor.dim() == 2 else factor

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given = args[0].unflatten(0, (len(factor), -1)) if args[0].dim() < aligned.dim() else args[0]
        return ((given * aligned.to(given.dtype)).view(args[0].shape), *args[1:])

    return projection.register_forward_pre_hook(hook)


def _input_as_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
