"""Attention probing in the report: what removed heads attended to, beside those that are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.engine.anatomy.shape import Shape
from worker.engine.report.schema import AttentionProbe, GoneWith, HeadAttention, MeanAttention
from worker.engine.significance.attended import MASSES, Attended

NOTHING_REMOVED = "no attention head was removed"


def attention_probe(full: Shape, after: Shape, found: Attended, rows: int) -> AttentionProbe:
    """Of the heads of the dense model's shape `full`, by what is left of them in `after`."""
    heads = tuple(
        HeadAttention(
            layer=index,
            head=head,
            gone_with=_gone_with(after, index, head),
            **_masses(found.masses[index, head]),
        )
        for index, layer in enumerate(full.layers)
        for head in layer.heads
    )
    removed = _mean([head for head in heads if head.gone_with is not None])
    kept = _mean([head for head in heads if head.gone_with is None])
    return AttentionProbe(
        skipped=None,
        rows=rows,
        tokens=found.tokens,
        heads=heads,
        removed=removed,
        kept=kept,
        summary=summary(removed, kept),
    )


def not_probed(reason: str) -> AttentionProbe:
    """What the report says where there is nothing to tell."""
    told = f"Heads were not probed: {reason}."
    return AttentionProbe(skipped=reason, rows=0, tokens=0, heads=(), removed=None, kept=None, summary=told)


def removes_heads(full: Shape, after: Shape) -> bool:
    """Whether a head of `full` is not in `after`."""
    return any(
        set(layer.heads) - set(left.heads)
        for layer, left in zip(full.layers, after.normalised().layers, strict=True)
    )


def summary(removed: MeanAttention | None, kept: MeanAttention | None) -> str:
    """The two groups' attention to special tokens and to the token itself, in a sentence."""
    assert removed is not None, "where no head is removed nothing is probed"
    looked = _to_special_and_current(removed)
    heads = "head" if removed.heads == 1 else "heads"
    said = (
        f"On average the {removed.heads} removed {heads} gave {looked:.1%} of their attention "
        "to special tokens and to the token itself"
    )
    if kept is None:
        return f"{said}; no head is kept."
    more = looked - _to_special_and_current(kept)
    return (
        f"{said}, the {kept.heads} kept {_to_special_and_current(kept):.1%}: "
        f"{abs(more) * 100:.1f} points {'more' if more >= 0 else 'less'}."
    )


def _to_special_and_current(each: MeanAttention | HeadAttention) -> float:
    return each.special + each.current


def _gone_with(after: Shape, layer: int, head: int) -> GoneWith | None:
    left = after.layers[layer]
    if not left.present:
        return "layer"
    if not left.heads:
        return "attention"
    return None if head in left.heads else "head"


def _mean(heads: Sequence[HeadAttention]) -> MeanAttention | None:
    if not heads:
        return None
    values = np.array([[getattr(head, name) for name in MASSES] for head in heads])
    return MeanAttention(heads=len(heads), **_masses(values.mean(axis=0)))


def _masses(values: NDArray[np.float64]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(MASSES, values, strict=True)}
