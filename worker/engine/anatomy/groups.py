"""Query heads that share their keys and values (grouped-query attention, Ainslie et al. 2023).

Elements are query heads, by their number in the dense model, of which every `kv_group` in a row share a head
of keys and values: head h reads that of number h // kv_group. It is left as long as one of its query heads
is, and goes with the last of them. So what is left of the groups may be of different sizes.
"""

from __future__ import annotations

BY_KV_HEAD = ("key", "value")
"""Projections that have outputs for every head of keys and values rather than for every query head."""


def kv_heads(heads: tuple[int, ...], kv_group: int) -> tuple[int, ...]:
    """The heads of keys and values that the query heads `heads` read, ascending, by dense number."""
    return tuple(sorted({head // kv_group for head in heads}))


def heads_of(projection: str, heads: tuple[int, ...], kv_group: int) -> tuple[int, ...]:
    """For which heads a projection has outputs where the query heads `heads` are left."""
    return kv_heads(heads, kv_group) if projection in BY_KV_HEAD else heads
