from __future__ import annotations

import numpy as np

from tests.engine.training.conftest import keyword_split
from worker.engine.training.augmentation import augmented

FIXED = (0, 1, 2)


def test_originals_come_first_and_copies_keep_labels_and_special_tokens() -> None:
    split = keyword_split(50, 0)
    more = augmented(split, 2, fixed=FIXED, seed=0)
    assert len(more) == 150
    assert (more.ids[: len(split.ids)] == split.ids).all()
    assert more.labels.tolist() == split.labels.tolist() * 3
    for row in range(len(more)):
        ids = more.row(row)
        assert (ids[0], ids[-1]) == (1, 2)
        assert not np.isin(ids[1:-1], FIXED).any()


def test_copies_are_disturbed_a_little() -> None:
    split = keyword_split(2000, 0)
    more = augmented(split, 1, fixed=FIXED, seed=0)
    free = len(split.ids) - 2 * len(split)
    removed = 2 * len(split.ids) - len(more.ids)
    assert 0.08 < removed / free < 0.12
    same_length = [i for i in range(2000) if len(more.row(2000 + i)) == len(split.row(i))]
    changed = sum(int((more.row(2000 + i) != split.row(i)).sum()) for i in same_length)
    assert 0.07 < changed / sum(len(split.row(i)) - 2 for i in same_length) < 0.12


def test_seeded() -> None:
    split = keyword_split(50, 0)
    first, again, other = (augmented(split, 1, fixed=FIXED, seed=seed) for seed in (1, 1, 2))
    assert first.ids.tolist() == again.ids.tolist() != other.ids.tolist()


def test_nothing_to_disturb() -> None:
    split = keyword_split(5, 0)
    assert len(augmented(split, 3, fixed=range(100), seed=0)) == 5
