from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.tasks import Split


def split_of(lengths: list[int], *, segments: bool = False) -> Split:
    """Row i consists of the number i + 1, so that padding and rows can be told apart."""
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Split(ids, offsets, np.arange(len(lengths)) % 3, pad_id=0, segments=ids % 2 if segments else None)


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=80)


@given(LENGTHS, st.integers(1, 9), st.sampled_from([None, 0, 7]), st.booleans())
def test_batches_hold_every_row_once_and_whole(
    lengths: list[int], size: int, seed: int | None, bucketed: bool
) -> None:
    split = split_of(lengths, segments=True)
    batches = list(split.batches(size, shuffle_seed=seed, bucketed=bucketed))
    assert sorted(np.concatenate([batch.index for batch in batches])) == list(range(len(split)))
    assert len(batches) == split.batch_count(size)
    for batch in batches:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert ids.shape[1] == max(lengths[i] for i in batch.index)
        assert mask.sum(dim=1).tolist() == [lengths[i] for i in batch.index]
        assert (ids == mask * (torch.from_numpy(batch.index)[:, None] + 1)).all()
        assert (batch.inputs["token_type_ids"] == ids % 2).all()
        assert batch.labels.tolist() == (batch.index % 3).tolist()


def test_bucketing_saves_padding() -> None:
    split = split_of(np.random.default_rng(0).integers(1, 60, 500).tolist())

    def padded(bucketed: bool) -> int:
        return sum(
            b.inputs["input_ids"].numel() for b in split.batches(16, shuffle_seed=1, bucketed=bucketed)
        )

    assert padded(True) < 1.1 * len(split.ids) < 1.5 * len(split.ids) < padded(False)


def test_shuffling_is_seeded() -> None:
    split = split_of(list(range(1, 40)))

    def order(seed: int) -> list[int]:
        return np.concatenate([batch.index for batch in split.batches(4, shuffle_seed=seed)]).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("index", [[2], [3, 0], [1, 1, 2]])
def test_select_keeps_order(index: list[int]) -> None:
    split = split_of([3, 1, 4, 2], segments=True)
    part = split.select(np.array(index))
    assert [part.row(i).tolist() for i in range(len(part))] == [split.row(i).tolist() for i in index]
    assert part.labels.tolist() == split.labels[index].tolist()
    assert part.segments is not None
    assert (part.segments == part.ids % 2).all()
