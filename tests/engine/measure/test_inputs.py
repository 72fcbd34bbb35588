from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.measure.inputs import BenchInputs

ROWS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=9)


@given(ROWS, st.integers(1, 5))
def test_batches_hold_every_row_in_order_padded_within_the_batch(rows: list[list[int]], size: int) -> None:
    batches = list(BenchInputs.in_order(rows, batch_size=size, pad_id=0).batches())
    unpadded = [
        ids[mask == 1].tolist()
        for batch in batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert unpadded == rows
    for batch in batches:
        assert batch["attention_mask"].any(axis=0).all(), "a column of padding only"
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    inputs = BenchInputs.in_order(
        [[1, 2, 3], [4], [5, 6]], batch_size=2, pad_id=7, token_types=[[0, 0, 1], [1], [0, 1]]
    )
    inputs.save(tmp_path / "inputs.npz")
    loaded = BenchInputs.load(tmp_path / "inputs.npz")
    for ours, theirs in zip(inputs.batches(), loaded.batches(), strict=True):
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name])
    assert loaded.shapes() == inputs.shapes() == ((2, 3), (1, 2))
    assert loaded.digest() == inputs.digest()


def test_a_sample_keeps_the_natural_order_and_the_data_s_lengths() -> None:
    rows = [[index + 1] * (1 + index % 5) for index in range(100)]
    inputs = BenchInputs.sample(rows, batch_size=2, calls=10, seed=3)
    firsts = [int(row[0]) for row in inputs.ids]
    assert inputs.calls == 10
    assert firsts == sorted(set(firsts))
    assert all(row.tolist() == rows[row[0] - 1] for row in inputs.ids)
    assert firsts == [int(row[0]) for row in BenchInputs.sample(rows, batch_size=2, calls=10, seed=3).ids]


def test_few_rows_are_used_again() -> None:
    inputs = BenchInputs.sample([[1], [2, 2], [3]], batch_size=2, calls=5)
    assert inputs.calls == 5
    assert inputs.rows == 10
    assert {row[0] for row in inputs.ids} == {1, 2, 3}


def test_a_fixed_length_cuts_and_repeats() -> None:
    inputs = BenchInputs.sample(
        [[1, 2, 3, 4, 5, 6], [7, 8]], batch_size=1, calls=2, sequence_length=4, token_types=[[0] * 6, [0, 1]]
    )
    assert [row.tolist() for row in inputs.ids] == [[1, 2, 3, 4], [7, 8, 7, 8]]
    assert inputs.token_types is not None
    assert inputs.token_types[1].tolist() == [0, 1, 0, 1]


def test_no_rows_or_an_empty_row_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        BenchInputs.in_order([], batch_size=1)
    with pytest.raises(ValueError, match="no rows"):
        BenchInputs.sample([], batch_size=1)
    with pytest.raises(ValueError, match="without tokens"):
        BenchInputs.in_order([[1], []], batch_size=1)
