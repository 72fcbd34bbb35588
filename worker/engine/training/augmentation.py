"""Disturbed copies of training rows: more inputs on which a student can watch its teacher.

A fine-tuned teacher answers its own training rows with near certainty, which tells a student little more
than the labels do. On disturbed rows its answers vary (TinyBERT, Jiao et al. 2020, section 4 augments for the
same reason, there with a language model; here words are drawn from the data itself).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worker.engine.tasks.split import Split

REPLACED = 0.1
REMOVED = 0.1


def augmented(train: Split, copies: int, *, fixed: Collection[int], seed: int) -> Split:
    """`train` and after it `copies` disturbed versions of every row, in the same order; for training only.

    Of a copy's tokens a tenth is replaced by tokens drawn from all of `train`, then a tenth removed; those
    in `fixed` (the tokenizer's special ones) stay. Labels are those of the original: a copy may no longer
    deserve its label, so learn from the teacher's answer on it.
    """
    generator = np.random.default_rng(seed)
    free = ~np.isin(train.ids, list(fixed))
    words = train.ids[free]
    parts = (
        [train, *(_disturbed(train, free, words, generator) for _ in range(copies))]
        if len(words)
        else [train]
    )
    lengths = np.concatenate([part.sequence_lengths for part in parts])
    sequences = np.concatenate([np.diff(part.row_starts) for part in parts])
    return replace(
        train,
        ids=np.concatenate([part.ids for part in parts]),
        offsets=_offsets(lengths),
        labels=np.concatenate([part.labels for part in parts]),
        segments=_joined([part.segments for part in parts]),
        starts=None if train.starts is None else _offsets(sequences),
        spans=None,
        source=None,
    )


def _disturbed(
    split: Split, free: NDArray[np.bool_], words: NDArray[np.int64], generator: np.random.Generator
) -> Split:
    changed = free & (generator.random(len(free)) < REPLACED)
    ids = split.ids.copy()
    ids[changed] = generator.choice(words, int(changed.sum()))
    kept = ~(free & (generator.random(len(free)) < REMOVED))
    lengths = split.sequence_lengths
    sequences = np.repeat(np.arange(len(lengths)), lengths)
    return replace(
        split,
        ids=ids[kept],
        offsets=_offsets(np.bincount(sequences[kept], minlength=len(lengths))),
        labels=split.labels[kept] if split.by_token else split.labels,
        segments=None if split.segments is None else split.segments[kept],
    )


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _joined(segments: list[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    present = [own for own in segments if own is not None]
    return np.concatenate(present) if present else None
