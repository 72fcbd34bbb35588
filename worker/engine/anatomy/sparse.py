"""Running a model as if some heads of a layer read a few tokens only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from worker.engine.anatomy.causal import with_causal_mask
from worker.engine.anatomy.families import LayerParts, Rows
from worker.engine.export.axforge_attention import AxforgeAttention
from worker.engine.export.axforge_sparse_attention import (
    averaged,
    best_matches,
    hardened,
    of_heads,
    sparse_attention,
)

ATTENTION = "axforge_per_layer"
"""Name in transformers' registry of the attention function that reads what each layer's heads do."""


def sparse_heads(
    model: PreTrainedModel, part: LayerParts, sparse: Sequence[dict[str, Any]]
) -> AbstractContextManager[None]:
    """While it lasts, heads of a layer attend as `sparse` says, in the form of `sparse_attention`."""
    if part.probabilities is None:
        return _own_function(model, part.attention, sparse)
    return _changed_probabilities(part, part.probabilities, sparse)


@contextmanager
def _own_function(model: PreTrainedModel, attention: Any, sparse: Sequence[dict[str, Any]]) -> Iterator[None]:
    """An attention module that calls transformers' attention function, or an exported model's own."""
    before, implementation = getattr(attention, "sparse", ()), model.config._attn_implementation
    try:
        attention.sparse = sparse
        if not isinstance(attention, AxforgeAttention):
            model.config._attn_implementation = ATTENTION
        yield
    finally:
        model.config._attn_implementation = implementation
        attention.sparse = before


@contextmanager
def _changed_probabilities(
    part: LayerParts, probabilities: nn.Module, sparse: Sequence[dict[str, Any]]
) -> Iterator[None]:
    """An attention module that works its probabilities out itself, and hands them to `probabilities`."""
    assert part.attention is not None
    given: dict[str, Any] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given["hidden"] = args[0] if args else kwargs["hidden_states"]
        given["mask"] = args[1] if len(args) > 1 else kwargs.get("attention_mask")

    def change(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        heads = args[0].shape[1]
        projections = part.by_head["query"], part.by_head["key"]
        query, key = (_by_head(projection, given["hidden"], heads) for projection in projections)
        changed = args[0].clone()
        for group in sparse:
            all_heads = args[0], query, key, _mask(given["mask"])
            own: list[Any] = [of_heads(one, group["heads"]) for one in all_heads]
            changed[:, group["heads"]] = _weights(group["kind"], group["top_k"], *own)
        return (changed, *args[1:])

    with ExitStack() as undo:
        undo.callback(part.attention.register_forward_pre_hook(keep, with_kwargs=True).remove)
        undo.callback(probabilities.register_forward_pre_hook(change).remove)
        yield


def _by_head(projection: Rows, hidden: Tensor, heads: int) -> Tensor:
    """(batch, length, width) to (batch, heads, length, size)."""
    values = F.linear(hidden, projection.weight, projection.bias)
    return values.view(*values.shape[:-1], heads, -1).transpose(1, 2)


def _mask(mask: Tensor | None) -> Tensor | None:
    """A mask of whole numbers, 1 to attend, as a boolean one."""
    return mask if mask is None or mask.is_floating_point() else mask.bool()


def _weights(
    kind: str, top_k: int, probabilities: Tensor, query: Tensor, key: Tensor, mask: Tensor | None
) -> Tensor:
    """What values are weighed by, in place of soft probabilities (batch, heads, queries, keys).

    A softmax over some scores is that over all of them, cut to these and made to sum to 1.
    """
    if kind == "hard":
        return hardened(probabilities, top_k)
    chosen = best_matches(query, key, mask, top_k)
    if kind == "sign_average":
        return averaged(chosen, probabilities.dtype)
    kept = torch.where(chosen, probabilities, 0.0)
    return kept / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny)


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
    """transformers' attention function: with sparse heads where the layer has `sparse`, else sdpa."""
    sparse: Any = getattr(module, "sparse", ())
    if not sparse:
        soft: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return soft
    key, value, attention_mask = with_causal_mask(module, query, key, value, attention_mask)
    context = sparse_attention(query, key, value, attention_mask, sparse, scaling, dropout)
    return context.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _per_layer_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
