"""What transformers leaves to an attention function of a decoder, for functions that are not its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def with_causal_mask(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values for every query head, and a mask: (batch, heads, keys, size), (..., queries, keys).

    transformers hands over the heads of keys and values once for the query heads that share them, and no mask
    where a causal one is all that is needed (`module.is_causal`). Without a cache only: queries are keys.
    """
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    if mask is None and getattr(module, "is_causal", False):
        length = query.shape[2]
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    return key, value, mask
