"""Seeded, stratified splits of labelled rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SELECTION_SHARE = 0.15
SELECTION_ROWS = (50, 2000)


def selection_size(rows: int) -> int:
    """How many of `rows` training rows judge the search: 15 %, 50 to 2,000, at most a third."""
    least, most = SELECTION_ROWS
    return max(1, min(max(round(rows * SELECTION_SHARE), least), most, rows // 3))


def stratified_split(
    labels: NDArray[np.int64], size: int, *, seed: int, groups: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the rows left and of about `size` rows picked, both ascending.

    Every class gives its share of `size` (largest remainders), but never its last group. Rows of equal
    `groups` value stay together; a group counts for the class of its first row, and is taken only if it
    does not overfill the class's share.
    """
    rows = len(labels)
    groups = np.arange(rows) if groups is None else groups
    generator = np.random.default_rng(seed)
    _, first, member, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    group_labels = labels[first]
    classes, class_rows = np.unique(np.repeat(group_labels, sizes), return_counts=True)
    picked = np.zeros(len(first), dtype=bool)
    for label, quota in zip(classes, _shares(class_rows, size), strict=True):
        own = generator.permutation(np.flatnonzero(group_labels == label))
        room = int(quota)
        for group in own[:-1]:
            if sizes[group] <= room:
                picked[group] = True
                room -= int(sizes[group])
    chosen = picked[member]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def stratified_sample(labels: NDArray[np.int64], size: int, *, seed: int) -> NDArray[np.int64]:
    """Ascending indices of `size` rows, every class in its share and, where there is room, at least once."""
    if size >= len(labels):
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    quotas = np.maximum(_shares(counts, size), 1 if size >= len(classes) else 0)
    while quotas.sum() > size:
        quotas[np.argmax(quotas)] -= 1
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _shares(counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """`size` divided in proportion to `counts` by largest remainders; none above its count."""
    exact = counts * (size / counts.sum())
    shares = np.floor(exact).astype(np.int64)
    left = min(size, int(counts.sum())) - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:left]] += 1
    return np.asarray(np.minimum(shares, counts), dtype=np.int64)
