"""Running a model as if parts were removed, or with gates on them, by forward hooks only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from worker.engine.anatomy.families import LayerParts, Rows
from worker.engine.anatomy.low_rank import in_rank
from worker.engine.anatomy.shape import LayerShape, Shape, positions
from worker.engine.anatomy.vocabulary import projected, renumbered
from worker.engine.export.axforge_attention import AxforgeAttention, hard_attention, hardened

if TYPE_CHECKING:
    from worker.engine.anatomy.base import Anatomy

ATTENTION = "axforge_per_layer"
"""Name in transformers' registry of the attention function that reads each layer's top-k."""


@dataclass(frozen=True)
class Gates:
    """Factors on the context of each head and on each FFN activation, by dense index."""

    heads: Tensor
    channels: Tensor


@contextmanager
def masked(
    model: PreTrainedModel,
    embeddings: nn.Module,
    parts: tuple[LayerParts, ...],
    full: Shape,
    shape: Shape,
    head_size: int,
    token_ids: Tensor | None,
) -> Iterator[None]:
    """See `Anatomy.masked`. `shape` is within `full`, both normalised; `token_ids`: see `renumbered`."""
    device = model.device
    with ExitStack() as undo:
        undo.enter_context(renumbered(model, token_ids))
        if shape.embedding_rank != full.embedding_rank and shape.embedding_rank is not None:
            undo.enter_context(projected(model, embeddings, shape.embedding_rank, token_ids))
        for part in parts:
            held, kept = full.layers[part.index], shape.layers[part.index]
            for handle in _layer_hooks(part, held, kept, head_size, device):
                undo.callback(handle.remove)
            for low in _low_rank_ffn(part, held, kept):
                undo.enter_context(low)
        hard = {part: shape.layers[part.index].hard_top_k for part in parts}
        undo.enter_context(_hard_attention(model, {part: k for part, k in hard.items() if k is not None}))
        yield


@contextmanager
def gated(anatomy: Anatomy, batch_size: int | None) -> Iterator[Gates]:
    """See `Anatomy.gated`."""
    batch = () if batch_size is None else (batch_size,)
    device = anatomy.model.device
    gates = Gates(
        torch.ones((*batch, anatomy.layers, anatomy.heads), device=device, requires_grad=True),
        torch.ones((*batch, anatomy.layers, anatomy.channels), device=device, requires_grad=True),
    )
    with ExitStack() as undo:
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
    part: LayerParts, held: LayerShape, kept: LayerShape
) -> Iterator[AbstractContextManager[None]]:
    if kept.ffn_rank is None or kept.ffn_rank == held.ffn_rank:
        return
    assert part.ffn_down is not None
    channels = torch.tensor(positions(held.channels, kept.channels))
    for up in part.ffn_ups:
        yield in_rank(up, kept.ffn_rank, rows=channels, columns=None)
    yield in_rank(Rows(part.ffn_down), kept.ffn_rank, rows=None, columns=channels)


def _kept(held: tuple[int, ...], kept: tuple[int, ...], device: torch.device) -> Tensor:
    wanted = set(kept)
    return torch.tensor([float(index in wanted) for index in held], device=device)


def _without(projection: nn.Module, factor: Tensor) -> RemovableHandle:
    """Nothing kept: the block adds nothing, not even its bias. Else the rest contributes 0."""
    if not factor.any():
        return projection.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    return _scaled_input(projection, factor)


def _scaled_input(projection: nn.Module, factor: Tensor) -> RemovableHandle:
    """Multiply the input (batch, length, width) by (width,) or, per example, (batch, width)."""
    aligned = factor.unsqueeze(1) if factor.dim() == 2 else factor

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * aligned.to(args[0].dtype), *args[1:])

    return projection.register_forward_pre_hook(hook)


def _input_as_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@contextmanager
def _hard_attention(model: PreTrainedModel, top_k: dict[LayerParts, int]) -> Iterator[None]:
    with ExitStack() as undo:
        for part, k in top_k.items():
            if part.probabilities is None:
                undo.enter_context(_hard_module(model, part.attention, k))
            else:
                undo.callback(part.probabilities.register_forward_pre_hook(_hardening(k)).remove)
        yield


@contextmanager
def _hard_module(model: PreTrainedModel, attention: nn.Module | None, k: int) -> Iterator[None]:
    """An attention module that calls transformers' attention function, or an exported model's own."""
    before, implementation = getattr(attention, "hard_top_k", None), model.config._attn_implementation
    try:
        setattr(attention, "hard_top_k", k)  # noqa: B010 - not a declared attribute
        if not isinstance(attention, AxforgeAttention):
            model.config._attn_implementation = ATTENTION
        yield
    finally:
        model.config._attn_implementation = implementation
        setattr(attention, "hard_top_k", before)  # noqa: B010


def _hardening(k: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook on the module that an attention module hands its probabilities (..., keys) to."""
    return lambda module, args: (hardened(args[0], k), *args[1:])


def _per_layer_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: hard where the layer has `hard_top_k`, else sdpa."""
    top_k = getattr(module, "hard_top_k", None)
    if top_k is None:
        soft: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return soft
    context = hard_attention(query, key, value, attention_mask, top_k, scaling, dropout)
    return context.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _per_layer_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
