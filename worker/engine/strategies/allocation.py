"""Allocation: which option to take of every block, so that bounds hold for the least significance.

A multiple-choice knapsack with one or two bounds, solved by dynamic programming over blocks (Kellerer,
Pferschy and Pisinger 2004, section 11.5), as ZipLM does (Kurtic et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MOST_STATES = 4096  # partial sums that are kept after a block; with fewer than that the answer is exact
SLACK = 1e-9  # of a bound: what sums of floats may be wrong by


@dataclass(frozen=True)
class Option:
    """One way to leave a block: what the task loses by it, and what it saves of each bounded resource.

    All options of one allocation have as many `savings`, each 0 or more.
    """

    significance: float
    savings: tuple[float, ...]


def allocate(
    blocks: Sequence[Sequence[Option]], needed: Sequence[float], *, most_states: int = MOST_STATES
) -> list[int] | None:
    """For each block the index of the option to take; None where no choice saves all that is `needed`.

    The sum of significances is the least possible as long as no more than `most_states` partial sums need to
    be kept after a block. Beyond that, of sums that lie in the same of so many cells the one of least
    significance stays. The savings of what is kept are exact, so the answer always saves enough.
    Of equally good answers the same one is given every time.
    """
    wanted = np.asarray(needed, dtype=np.float64)
    if not blocks:
        return None if wanted.any() else []
    savings = [np.array([each.savings for each in options]).reshape(len(options), -1) for options in blocks]
    possible = _possible_behind(savings, len(wanted))
    saved, lost = np.zeros((1, len(wanted))), np.zeros(1)
    taken: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    for options, own, behind in zip(blocks, savings, possible, strict=True):
        prices = np.array([each.significance for each in options])
        all_saved = np.minimum(saved[:, None] + own[None], wanted).reshape(-1, len(wanted))
        all_lost = (lost[:, None] + prices[None]).ravel()
        hopeful = np.flatnonzero((all_saved + behind >= wanted * (1.0 - SLACK)).all(axis=1))
        kept = hopeful[_undominated(all_saved[hopeful], all_lost[hopeful], wanted, most_states)]
        if not kept.size:
            return None
        saved, lost = all_saved[kept], all_lost[kept]
        taken.append((kept // len(options), kept % len(options)))
    return _traced(taken, int(np.argmin(lost)))


def _possible_behind(savings: Sequence[Floats], resources: int) -> list[Floats]:
    """What the blocks behind each one can save at most, (resources,)."""
    behind = [np.zeros(resources)]
    for own in reversed(savings[1:]):
        behind.append(behind[-1] + own.max(axis=0))
    return behind[::-1]


def _undominated(saved: Floats, lost: Floats, wanted: Floats, most: int) -> npt.NDArray[np.int64]:
    """Indices of the partial sums worth keeping, of equal ones the first."""
    # Ascending significance, then descending savings: whoever comes first is never dominated by a later one.
    order = np.lexsort((*(-saved.T[::-1]), lost)) if saved.size else np.argsort(lost, kind="stable")[:1]
    if saved.shape[1] == 1 and order.size:
        best = np.maximum.accumulate(saved[order, 0])
        order = order[np.concatenate([[True], saved[order[1:], 0] > best[:-1]])]
    elif order.size:
        order = order[np.sort(np.unique(saved[order], axis=0, return_index=True)[1])]
    if order.size <= most:
        return order
    per_resource = int(most ** (1.0 / saved.shape[1]))
    cells = np.floor(saved[order] / wanted * per_resource).astype(np.int64)
    furthest = np.argmax((saved[order] / wanted).min(axis=1))  # the surest to reach what is needed
    return order[np.union1d(np.unique(cells, axis=0, return_index=True)[1], furthest)]


def _traced(taken: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]], last: int) -> list[int]:
    chosen: list[int] = []
    for came_from, option in reversed(taken):
        chosen.append(int(option[last]))
        last = int(came_from[last])
    return chosen[::-1]
