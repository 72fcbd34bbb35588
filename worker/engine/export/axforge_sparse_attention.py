# Copyright 2026 The axforge authors. Licensed under the Apache License, Version 2.0.
"""Attention in which a token reads a few others only: selective hard attention, and sign matching.

Self-contained: it needs torch only, and travels inside exported model folders.

A head is of one `kind`:

* "hard" (AxFormer, arXiv 2010.03688v2): of each row of probabilities the `top_k` largest are kept, not
  renormalised; those equal to the last of them too.
* "sign_softmax", "sign_average" (after 2010.03688v1): a token reads the `top_k` whose keys agree with its
  query in most signs, where 0 counts as positive; of equal ones those that come first. "sign_average"
  takes the mean of their values, "sign_softmax" the softmax of their scores, with what positions add to
  these.
  Signs are those of queries and keys as they meet, rotary positions included; what is added to scores for
  positions takes no part in choosing.

A token that the mask excludes (padding, beyond a local window, ahead of a causal one) is never chosen: where
fewer than `top_k` are left, all of these are read, and where none is, the answer is 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

DENSE_VALUES = 1 << 26  # scores of a block of rows, at most; more rows are worked out one block after another
LONG = 512  # keys from which sign matching gathers what it has chosen instead of masking all scores
ROWS = 256  # queries of a block there
CHUNKS = 16  # keys that first compete among each other there


def sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    sparse: Sequence[dict[str, Any]],
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of heads that may differ: (batch, heads, queries, size) from queries, keys and values.

    Keys and values are (batch, heads, keys, size). `mask` (batch or 1, heads or 1, queries or 1, keys) is
    added to the scores, or boolean (True: attend). `sparse`: each with `kind`, `top_k` and the numbers of
    its `heads`; those that are not named are soft.
    """
    heads = query.shape[1]
    named = {head for group in sparse for head in group["heads"]}
    soft = [head for head in range(heads) if head not in named]
    groups = [*sparse, *([{"kind": "soft", "top_k": 0, "heads": soft}] if soft else [])]
    parts = []
    for group in groups:
        own: list[Any] = [query, key, value, mask]
        if len(groups) > 1:
            own = [of_heads(one, group["heads"]) for one in own]
        parts.append(attention_of_kind(group["kind"], group["top_k"], *own, scale=scale, dropout=dropout))
    if len(parts) == 1:
        return parts[0]
    order = [head for group in groups for head in group["heads"]]
    return torch.cat(parts, dim=1)[:, [order.index(head) for head in range(heads)]]


def of_heads(values: Tensor | None, heads: list[int]) -> Tensor | None:
    """Of (batch, heads, ...) some heads; what is the same for all of them stays as it is."""
    return values if values is None or values.shape[1] == 1 else values[:, heads]


def attention_of_kind(
    kind: str,
    top_k: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    dropout: float,
) -> Tensor:
    """Attention of heads of one kind."""
    if kind == "soft":
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    if kind == "hard":
        return by_rows(
            lambda rows, own: hard_attention(rows, key, value, own, top_k, scale, dropout), query, key, mask
        )
    average = kind == "sign_average"
    traced = torch.compiler.is_compiling()  # for any length, so that none can be asked for
    if not traced and not torch.is_grad_enabled() and key.shape[-2] >= LONG:
        return gathered_sign_attention(query, key, value, mask, top_k, scale, average=average)
    return by_rows(
        lambda rows, own: sign_attention(rows, key, value, own, top_k, scale, dropout, average=average),
        query,
        key,
        mask,
    )


def by_rows(
    attend: Callable[[Tensor, Tensor | None], Tensor], query: Tensor, key: Tensor, mask: Tensor | None
) -> Tensor:
    """`attend` on as many queries at once as keep their scores within `DENSE_VALUES`."""
    if torch.compiler.is_compiling():
        return attend(query, mask)
    batch, heads, queries, _ = query.shape
    rows = max(1, DENSE_VALUES // (batch * heads * key.shape[-2]))
    if rows >= queries:
        return attend(query, mask)
    return torch.cat(
        [
            attend(query[:, :, start : start + rows], mask_of(mask, start, rows))
            for start in range(0, queries, rows)
        ],
        dim=2,
    )


def mask_of(mask: Tensor | None, start: int, rows: int) -> Tensor | None:
    """The mask of some queries."""
    return mask if mask is None or mask.shape[2] == 1 else mask[:, :, start : start + rows]


def hard_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    top_k: int,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Attention in which each row keeps its `top_k` largest probabilities, not renormalised.

    Padded keys have probability 0, so they never take the place of a real one.
    """
    probabilities = masked_scores(query, key, mask, scale).softmax(-1)
    return torch.matmul(F.dropout(hardened(probabilities, top_k), dropout), value)


def masked_scores(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """(batch, heads, queries, keys)."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * scale
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask


def hardened(probabilities: Tensor, top_k: int) -> Tensor:
    """Each row's `top_k` largest probabilities, and 0. Those equal to the k-th largest are all kept."""
    threshold = last_of_top(probabilities, top_k, beyond=0.0)
    return torch.where(probabilities >= threshold, probabilities, 0.0)


def last_of_top(values: Tensor, top_k: int, *, beyond: float) -> Tensor:
    """The `top_k`-th largest of each row, (..., 1); `beyond` where the row is shorter."""
    # Padding, rather than a smaller k, is what a traced graph of any length can do.
    return F.pad(values, (0, top_k), value=beyond).topk(top_k, dim=-1).values[..., -1:]


def sign_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    top_k: int,
    scale: float,
    dropout: float = 0.0,
    *,
    average: bool,
) -> Tensor:
    """Sign matching by masking all scores; see `gathered_sign_attention` for long inputs."""
    chosen = best_matches(query, key, mask, top_k)
    if average:
        weights = averaged(chosen, value.dtype)
    else:
        scores = masked_scores(query, key, mask, scale)
        scores = scores.masked_fill(~chosen, torch.finfo(scores.dtype).min)
        weights = torch.where(chosen, scores.softmax(-1), 0.0)
    return torch.matmul(F.dropout(weights, dropout), value)


def best_matches(query: Tensor, key: Tensor, mask: Tensor | None, top_k: int) -> Tensor:
    """Which keys each query chooses, (batch, heads, queries, keys): the `top_k` that the mask allows and
    whose signs agree with the query's most often, of equal ones the first."""
    ranks = match_ranks(signs(query), signs(key))
    if mask is not None:
        ranks = ranks.masked_fill(~allowed(mask), float("-inf"))
    threshold = last_of_top(ranks, top_k, beyond=float("-inf"))
    return (ranks >= threshold) & (ranks > float("-inf"))


def signs(values: Tensor) -> Tensor:
    """1 and -1; 0 counts as positive."""
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)


def match_ranks(query_signs: Tensor, key_signs: Tensor) -> Tensor:
    """A whole number for each query and key, no two of a query equal: larger for more equal signs, then for
    an earlier key. In fp32, exact up to 2^24 / (size + 1) keys.

    With m of s signs equal the product of signs is 2 m - s.
    """
    keys = key_signs.shape[-2]
    products = torch.matmul(query_signs, key_signs.transpose(-1, -2)).float()
    return products * keys - torch.arange(keys, device=products.device, dtype=torch.float32)


def allowed(mask: Tensor) -> Tensor:
    """Which keys a mask lets a query read; one that is added excludes by the type's lowest number."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 4


def averaged(chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """The same weight for all that a row has chosen."""
    weights = chosen.to(dtype)
    return weights / weights.sum(-1, keepdim=True).clamp_min(1.0)


def gathered_sign_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    top_k: int,
    scale: float,
    *,
    average: bool,
) -> Tensor:
    """What `sign_attention` computes, for long inputs: only the chosen keys and values are read.

    One head after the other, `ROWS` queries at a time: besides its inputs and its answer it holds
    `ROWS` * (keys + top_k * size) values. Gives no gradients.
    """
    answer = value.new_zeros((*query.shape[:3], value.shape[-1]))
    for row in range(query.shape[0]):
        for head in range(query.shape[1]):
            own = None if mask is None else mask[row % mask.shape[0], head % mask.shape[1]]
            keys, values, own = without_masked(key[row, head], value[row, head], own)
            if len(keys) == 0:
                continue
            columns = in_chunks(packed_signs(keys))
            for start in range(0, query.shape[2], ROWS):
                asking = query[row, head, start : start + ROWS]
                block = own if own is None or own.shape[0] == 1 else own[start : start + ROWS]
                index, real = chosen_keys(packed_signs(asking), columns, len(keys), block, top_k)
                if average:
                    weights = averaged(real, values.dtype)
                else:
                    weights = gathered_softmax(asking, keys, index, real, block, scale).to(values.dtype)
                answer[row, head, start : start + ROWS] = F.embedding_bag(
                    index, values, mode="sum", per_sample_weights=weights
                )
    return answer


def without_masked(key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values of one head, (keys, size), without those that are masked for all queries alike."""
    if mask is None or mask.shape[0] > 1:
        return key, value, mask
    real = allowed(mask[0])
    added = None if mask.dtype == torch.bool or not mask[0][real].any() else mask[:, real]
    return (key, value, added) if real.all() else (key[real], value[real], added)


def packed_signs(values: Tensor) -> Tensor:
    """Signs in the type whose products are the fastest: on CPUs int8, a third of the time of fp32 and of
    that of counting equal bits."""
    int8 = values.device.type == "cpu" and hasattr(torch, "_int_mm") and torch.backends.mkldnn.is_available()
    return signs(values).to(torch.int8 if int8 else torch.float32)


def in_chunks(key_signs: Tensor) -> Tensor:
    """(keys, size) as columns (size, CHUNKS * chunks), of which t * chunks + c is key c * CHUNKS + t.

    So neighbours are in one chunk, and the best of all chunks are found a row at a time.
    """
    keys, size = key_signs.shape
    padded = F.pad(key_signs, (0, 0, 0, -keys % CHUNKS)).view(-1, CHUNKS, size)
    return padded.transpose(0, 1).reshape(-1, size).t().contiguous()


def chosen_keys(
    query_signs: Tensor, columns: Tensor, keys: int, mask: Tensor | None, top_k: int
) -> tuple[Tensor, Tensor]:
    """The keys that each query chooses (queries, k), and whether each is one: k is `top_k`, or all keys.

    In two rounds. The best of all keys lie in those `k` chunks whose best match best, of equal ones in the
    first of these; then those chunks' keys are compared as in `match_ranks`.
    """
    rows, size, k = query_signs.shape[0], query_signs.shape[1], min(top_k, keys)
    products = sign_products(query_signs, columns).view(rows, CHUNKS, -1)
    chunks = products.shape[-1]
    counted = torch.arange(CHUNKS * chunks, dtype=products.dtype, device=products.device)
    excluded = -size - 1  # no product is that small
    if mask is not None or keys < CHUNKS * chunks:
        free = (counted < keys)[None] if mask is None else F.pad(allowed(mask), (0, -keys % CHUNKS))
        products = products.masked_fill(~free.view(-1, chunks, CHUNKS).transpose(1, 2), excluded)
    numbers = counted.view(chunks, CHUNKS).t().expand(rows, CHUNKS, chunks)
    if chunks > k:
        best = (products.amax(1) * chunks - counted[:chunks]).topk(k, dim=-1, sorted=False).indices
        best = best[:, None, :].expand(rows, CHUNKS, k)
        products, numbers = products.gather(2, best), numbers.gather(2, best)
    products, numbers = products.reshape(rows, -1), numbers.reshape(rows, -1)
    place = (products * keys - numbers).topk(k, dim=-1, sorted=False).indices
    real = products.gather(1, place) > excluded
    return numbers.gather(1, place).long().masked_fill(~real, 0), real


def sign_products(query_signs: Tensor, columns: Tensor) -> Tensor:
    """(queries, keys): equal signs less different ones."""
    if query_signs.dtype == torch.int8:
        return torch._int_mm(query_signs, columns)
    return torch.matmul(query_signs, columns).float()


def gathered_softmax(
    query: Tensor, key: Tensor, index: Tensor, real: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Softmax of the scores of chosen keys, (queries, k)."""
    scores = torch.einsum("qd,qkd->qk", query, key[index]) * scale
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask.expand(query.shape[0], -1).gather(1, index)
    scores = scores.masked_fill(~real, torch.finfo(scores.dtype).min)
    return torch.where(real, scores.softmax(-1), 0.0)
