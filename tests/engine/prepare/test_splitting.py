from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine.prepare.splitting import selection_size, stratified_sample, stratified_split

LABELS = st.lists(st.integers(0, 5), min_size=3, max_size=200)


@settings(deadline=None)
@given(LABELS, st.data())
def test_split_is_a_stratified_partition_that_keeps_groups_together(
    labels: list[int], data: st.DataObject
) -> None:
    ids = np.array(labels)
    groups = np.array(data.draw(st.lists(st.integers(0, 60), min_size=len(ids), max_size=len(ids))))
    size = data.draw(st.integers(1, len(ids)))
    rest, picked = stratified_split(ids, size, seed=data.draw(st.integers(0, 9)), groups=groups)
    assert sorted([*rest, *picked]) == list(range(len(ids)))
    assert len(picked) <= size
    assert not set(groups[rest]) & set(groups[picked])
    first = {group: ids[place] for place, group in reversed(list(enumerate(groups)))}
    assert set(first.values()) == {first[group] for group in groups[rest]}


@given(LABELS, st.integers(1, 200), st.integers(0, 9))
def test_split_without_groups_takes_each_class_in_its_share(labels: list[int], size: int, seed: int) -> None:
    ids = np.array(labels)
    _, picked = stratified_split(ids, min(size, len(ids)), seed=seed)
    for label in set(labels):
        count = int((ids == label).sum())
        exact = count * min(size, len(ids)) / len(ids)
        taken = int((ids[picked] == label).sum())
        assert min(np.floor(exact), count - 1) <= taken <= min(np.ceil(exact), count - 1)


@given(LABELS, st.integers(1, 250), st.integers(0, 9))
def test_sample_has_its_size_and_every_class_there_is_room_for(
    labels: list[int], size: int, seed: int
) -> None:
    ids = np.array(labels)
    chosen = stratified_sample(ids, size, seed=seed)
    assert len(chosen) == len(set(chosen)) == min(size, len(ids))
    if size >= len(set(labels)):
        assert set(ids[chosen]) == set(labels)
    assert (chosen == stratified_sample(ids, size, seed=seed)).all()


@given(st.integers(20, 10**6))
def test_selection_size_leaves_most_rows_to_learn_from(rows: int) -> None:
    size = selection_size(rows)
    assert 1 <= size <= min(2000, rows // 3)
    assert size >= min(50, rows // 3)
