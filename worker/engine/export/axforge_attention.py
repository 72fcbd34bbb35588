# Copyright 2026 The axforge authors. Licensed under the Apache License, Version 2.0.
"""Attention blocks of exported models, one class for each way in which positions enter the scores.

Self-contained with `axforge_sparse_attention.py`: it needs torch only, and travels inside exported model
folders.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .axforge_sparse_attention import sparse_attention


class AxforgeAttention(nn.Module):
    """Multi-head attention of `heads` heads; reads and writes the full hidden width.

    Scores know nothing of positions here; subclasses say otherwise in `placed`. `variant` may hold
    `window`: how far, in tokens, a token sees to either side (None: all the way); and `sparse`: the heads
    that read a few tokens only, as `axforge_sparse_attention.py` says.
    """

    def __init__(self, config: Any, heads: int, variant: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.head_size = heads, config.head_size
        self.sparse: list[dict[str, Any]] = list(variant.get("sparse", ()))
        self.scale: float = self.head_size**-0.5
        self.dropout, self.window = config.attention_dropout, variant.get("window")
        width = heads * config.head_size
        self.query = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.key = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.value = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.output = nn.Linear(width, config.hidden_size, bias=config.attention_bias)

    def forward(self, hidden: Tensor, mask: Tensor | None, shared: Any = None) -> Tensor:
        """`mask` is added to the scores; `shared` is what the layers' common position module gave."""
        batch, length, _ = hidden.shape
        query, key, mask = self.compared(hidden, mask, shared)
        value = self.by_head(self.value(hidden))
        dropout = self.dropout if self.training else 0.0
        if not self.sparse:
            context = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=self.scale)
        else:
            context = sparse_attention(query, key, value, mask, self.sparse, self.scale, dropout)
        joined = context.transpose(1, 2).reshape(batch, length, self.heads * self.head_size)
        contribution: Tensor = self.output(joined)
        return contribution

    def compared(
        self, hidden: Tensor, mask: Tensor | None, shared: Any
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries and keys (batch, heads, length, size), and all that is added to their scaled products."""
        query, key = (self.by_head(projection(hidden)) for projection in (self.query, self.key))
        query, key, bias = self.placed(query, key, shared)
        if self.window is not None:
            mask = local_mask(hidden.shape[1], self.window, mask, hidden)
        if bias is not None:
            mask = bias if mask is None else mask + bias
        return query, key, mask

    def placed(self, query: Tensor, key: Tensor, shared: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries and keys (batch, heads, length, size) with positions in them, and what to add to scores."""
        return query, key, None

    def by_head(self, values: Tensor) -> Tensor:
        """(batch, length, heads * size) to (batch, heads, length, size)."""
        split: Tensor = values.view(*values.shape[:-1], self.heads, self.head_size)
        return split.transpose(-3, -2)


class BucketAttention(AxforgeAttention):
    """A learned bias for each distance and head (T5, MPNet), from the layers' common `DistanceBuckets`."""

    def __init__(self, config: Any, heads: int, variant: dict[str, Any]) -> None:
        super().__init__(config, heads, variant)
        self.dense_heads: list[int] = list(variant["heads"])

    def placed(self, query: Tensor, key: Tensor, shared: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        bias: Tensor = shared
        return query, key, bias[:, self.dense_heads]


class RotaryAttention(AxforgeAttention):
    """Queries and keys turned by their positions (RoFormer); `variant` holds the base `theta`."""

    def __init__(self, config: Any, heads: int, variant: dict[str, Any]) -> None:
        super().__init__(config, heads, variant)
        self.theta: float = variant["theta"]

    def placed(self, query: Tensor, key: Tensor, shared: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        positions = torch.arange(query.shape[-2], device=query.device, dtype=torch.float32)
        angles = positions[:, None] * self.frequencies(query.device)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos().to(query.dtype), angles.sin().to(query.dtype)
        return turned(query, cos, sin), turned(key, cos, sin), None

    def frequencies(self, device: torch.device | None = None) -> Tensor:
        """Radians a token, for each pair of a head's dimensions: (size / 2,)."""
        return frequencies(self.theta, self.head_size, device)


class DisentangledAttention(AxforgeAttention):
    """Scores of content with content, content with position, position with content (DeBERTa, section 3.1).

    `config.relative` holds `terms` ("c2p", "p2c") and `own_projections`: whether relative positions have
    key and query projections of their own, or are projected as the content is.
    """

    def __init__(self, config: Any, heads: int, variant: dict[str, Any]) -> None:
        super().__init__(config, heads, variant)
        self.terms: list[str] = list(config.relative["terms"])
        self.scale = (self.head_size * (1 + len(self.terms))) ** -0.5
        self.table_dropout = nn.Dropout(config.hidden_dropout)
        width, own = heads * config.head_size, config.relative["own_projections"]
        has_key, has_query = own and "c2p" in self.terms, own and "p2c" in self.terms
        self.position_key = nn.Linear(config.hidden_size, width) if has_key else None
        self.position_query = nn.Linear(config.hidden_size, width) if has_query else None

    def placed(self, query: Tensor, key: Tensor, shared: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        table, index = shared
        table = self.table_dropout(table)
        index = index.expand(*query.shape[:2], *index.shape)
        bias: Tensor | None = None
        if "c2p" in self.terms:
            by_row = query @ self.position_keys(table).transpose(-1, -2)
            bias = by_row.gather(-1, index) * self.scale
        if "p2c" in self.terms:
            by_row = key @ self.position_queries(table).transpose(-1, -2)
            scores = by_row.gather(-1, index.transpose(-1, -2)).transpose(-1, -2) * self.scale
            bias = scores if bias is None else bias + scores
        return query, key, bias

    def position_keys(self, table: Tensor) -> Tensor:
        """(rows, width) of the table to (heads, rows, size)."""
        return self.by_head((self.position_key or self.key)(table))

    def position_queries(self, table: Tensor) -> Tensor:
        """(rows, width) of the table to (heads, rows, size)."""
        return self.by_head((self.position_query or self.query)(table))


class TransformerXLAttention(AxforgeAttention):
    """Scores of content, of distance and of segment (XLNet: Yang et al. 2019, section 2.5, with distances as
    in Transformer-XL, Dai et al. 2019, section 3.3).

    A query q has with a key k, n tokens before it, the score (q + a) k + (q + b) R s(n), and (q + c) d more
    where the key's token is of another segment; s are the `Sinusoids`. `vectors` are a, b, c and d, for each
    head. XLNet has a key for a token's own segment, too: only the difference of both, d, counts in a softmax.
    """

    VECTORS = 4
    TO_CONTENT, TO_DISTANCE, TO_SEGMENT, OTHER_SEGMENT = range(VECTORS)

    def __init__(self, config: Any, heads: int, variant: dict[str, Any]) -> None:
        super().__init__(config, heads, variant)
        width = heads * config.head_size
        self.distance_key = nn.Linear(config.relative["width"], width, bias=False)
        self.vectors = nn.Embedding(self.VECTORS, width)
        self.table_dropout = nn.Dropout(config.hidden_dropout)

    def placed(self, query: Tensor, key: Tensor, shared: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        table, index, is_other = shared
        vectors = self.head_vectors().to(query.dtype)
        keys = self.by_head(self.distance_key(self.table_dropout(table.to(query.dtype))))
        by_row = (query + vectors[self.TO_DISTANCE]) @ keys.transpose(-1, -2)
        bias = by_row.gather(-1, index.expand(*query.shape[:2], *index.shape))
        if is_other is not None:
            by_segment = (query + vectors[self.TO_SEGMENT]) * vectors[self.OTHER_SEGMENT]
            bias = bias + by_segment.sum(-1, keepdim=True) * is_other
        return query + vectors[self.TO_CONTENT], key, bias * self.scale

    def head_vectors(self) -> Tensor:
        """(vectors, heads, 1, size)."""
        return self.by_head(self.vectors.weight).transpose(0, 1).unsqueeze(2)


class DistanceBuckets(nn.Module):
    """One bias for each head and bucket of distances, common to all layers (Raffel et al. 2020, 2.1)."""

    FARTHEST = 128

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.buckets: int = config.relative["buckets"]
        self.table = nn.Embedding(self.buckets, config.relative["heads"])

    def forward(self, tokens: Tensor, token_types: Tensor | None = None) -> Tensor:
        """(1, heads, length, length) to add to scores, by query and key; `tokens` is (batch, length)."""
        index = self.index(distances(tokens.shape[1], tokens.device))
        bias: Tensor = self.table(index)
        return bias.permute(2, 0, 1).unsqueeze(0)

    def index(self, distance: Tensor) -> Tensor:
        """Bucket of each distance query - key: half of them for keys ahead, close ones one by one."""
        half = self.buckets // 2
        exact, away = half // 2, distance.abs()
        share = torch.log(away.float().clamp_min(1) / exact) / math.log(self.FARTHEST / exact)
        far = (exact + (share * (half - exact)).long()).clamp_max(half - 1)
        return torch.where(away < exact, away, far) + (distance < 0).long() * half


class DistanceTable(nn.Module):
    """An embedding for each bucket of distances, common to all layers (DeBERTa).

    `config.relative`: `span`, the buckets on either side; `farthest`, the distance from which all are
    one, or None where each distance below `span` has its own; `norm`, whether the rows are normalised.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.span: int = config.relative["span"]
        self.farthest: int | None = config.relative["farthest"]
        self.table = nn.Embedding(2 * self.span, config.hidden_size)
        normed = config.relative["norm"]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if normed else None

    def forward(self, tokens: Tensor, token_types: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rows (2 * span, width), and which of them each query meets at each key (length, length)."""
        return self.rows(), self.index(distances(tokens.shape[1], tokens.device))

    def rows(self) -> Tensor:
        rows: Tensor = self.table.weight
        return rows if self.norm is None else self.norm(rows)

    def index(self, distance: Tensor) -> Tensor:
        """The row of each distance query - key."""
        if self.farthest is not None:
            middle, away = self.span // 2, distance.abs()
            reach = torch.log(torch.tensor((self.farthest - 1) / middle))
            share = torch.log(away.clamp_min(middle) / middle) / reach
            far = (torch.ceil(share * (middle - 1)) + middle).long() * distance.sign()
            distance = torch.where(away <= middle, distance, far)
        return (distance + self.span).clamp(0, 2 * self.span - 1)


class Sinusoids(nn.Module):
    """Sines and cosines of every distance, and which tokens are of other segments, common to all layers.

    `config.relative` holds `width`, the values for a distance (Vaswani et al. 2017, section 3.5).
    """

    BASE = 10000.0

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.width: int = config.relative["width"]

    def forward(
        self, tokens: Tensor, token_types: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows (2 * length - 1, width); which of them each query meets at each key (length, length); and
        whether these are of different segments (batch, 1, length, length), None without `token_types`.
        """
        length, device = tokens.shape[1], tokens.device
        away = torch.arange(1 - length, length, device=device, dtype=torch.float32)
        angles = away[:, None] * frequencies(self.BASE, self.width, device)
        table = torch.cat((angles.sin(), angles.cos()), dim=-1)
        is_other = None
        if token_types is not None:
            is_other = token_types[:, None, :, None] != token_types[:, None, None, :]
        return table, distances(length, device) + length - 1, is_other


def attention_class(relative: dict[str, Any] | None) -> type[AxforgeAttention]:
    """The attention block of a config's `relative`."""
    kinds = {
        "buckets": BucketAttention,
        "rotary": RotaryAttention,
        "disentangled": DisentangledAttention,
        "transformer_xl": TransformerXLAttention,
    }
    return AxforgeAttention if relative is None else kinds[relative["kind"]]


def position_module(config: Any) -> nn.Module | None:
    """What the layers of a config have in common to place tokens by, if anything."""
    kind = None if config.relative is None else config.relative["kind"]
    modules = {"buckets": DistanceBuckets, "disentangled": DistanceTable, "transformer_xl": Sinusoids}
    return modules[kind](config) if kind in modules else None


def frequencies(theta: float, size: int, device: torch.device | None = None) -> Tensor:
    """Radians a token of sinusoids with base `theta`, for each pair of `size` values: (size / 2,)."""
    steps = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
    return torch.reciprocal(theta**steps)


def turned(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`values` (..., length, size), each pair (i, i + size / 2) turned by its angle."""
    one, other = values.chunk(2, dim=-1)
    return values * cos + torch.cat((-other, one), dim=-1) * sin


def distances(length: int, device: torch.device) -> Tensor:
    """query - key, (length, length)."""
    positions = torch.arange(length, device=device)
    return positions[:, None] - positions[None, :]


def local_mask(length: int, window: int, mask: Tensor | None, like: Tensor) -> Tensor:
    """`mask` with every key further than `window` away masked too: (batch or 1, 1, length, length)."""
    away = distances(length, like.device).abs() > window
    local = away.to(like.dtype) * torch.finfo(like.dtype).min
    # The smaller of both rather than the sum, which would be minus infinity.
    return local[None, None] if mask is None else torch.minimum(mask, local)
