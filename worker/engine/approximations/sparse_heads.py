"""Heads that read a few tokens only: which they are, how they choose, and what several decisions come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple, get_args

from models.spec.ranges import as_ranges, from_ranges

SparseKind = Literal["hard", "sign_softmax", "sign_average"]
"""Selective hard attention, and the two variants of sign matching; the coarser, the further behind."""
KINDS: tuple[SparseKind, ...] = get_args(SparseKind)


class SparseHead(NamedTuple):
    """A head, by its index in the dense model, that reads `top_k` tokens, chosen as `kind` says.

    `worker/engine/export/axforge_sparse_attention.py` says what each kind computes.
    """

    head: int
    kind: SparseKind
    top_k: int

    def within(self, other: SparseHead | None) -> bool:
        """Whether it is as coarse as `other` at least; a soft head is None, and the least coarse."""
        return other is None or self._coarseness >= other._coarseness

    @property
    def _coarseness(self) -> tuple[int, int]:
        return KINDS.index(self.kind), -self.top_k


def made_sparse(
    held: Sequence[SparseHead], heads: Iterable[int], kind: SparseKind, top_k: int
) -> tuple[SparseHead, ...]:
    """`held` after the decision on `heads`: of several on one head the coarsest counts, in any order."""
    by_head = {each.head: each for each in held}
    for head in heads:
        wanted = SparseHead(head, kind, top_k)
        if wanted.within(by_head.get(head)):
            by_head[head] = wanted
    return tuple(sorted(by_head.values()))


def only(sparse: Sequence[SparseHead], heads: Iterable[int]) -> tuple[SparseHead, ...]:
    """Those of `heads`, in the order of their numbers."""
    kept = set(heads)
    return tuple(sorted(each for each in sparse if each.head in kept))


def grouped(sparse: Sequence[SparseHead], held: Sequence[int]) -> list[dict[str, Any]]:
    """For an attention module that has the heads `held`: heads that choose alike, by their place there.

    The form is that of a layer variant's `sparse` in `AxforgeConfig`.
    """
    place = {head: at for at, head in enumerate(held)}
    return [
        {"kind": kind, "top_k": top_k, "heads": sorted(place[each.head] for each in group)}
        for (kind, top_k), group in groupby(sorted(sparse, key=_choice), key=_choice)
    ]


def to_json(sparse: Sequence[SparseHead]) -> list[dict[str, Any]]:
    """For a config.json; heads by their dense index, as ranges."""
    groups = grouped(sparse, range(1 + max((each.head for each in sparse), default=0)))
    return [{**group, "heads": as_ranges(group["heads"])} for group in groups]


def from_json(document: Iterable[dict[str, Any]]) -> tuple[SparseHead, ...]:
    """The inverse of `to_json`."""
    return tuple(
        sorted(
            SparseHead(head, group["kind"], group["top_k"])
            for group in document
            for head in from_ranges(group["heads"])
        )
    )


def _choice(each: SparseHead) -> tuple[str, int]:
    return each.kind, each.top_k
