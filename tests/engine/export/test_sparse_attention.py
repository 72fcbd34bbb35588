"""Sparse heads against a plain numpy program: every kind, ties, padding, windows, long inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from worker.engine.export import axforge_sparse_attention
from worker.engine.export.axforge_sparse_attention import (
    ROWS,
    best_matches,
    gathered_sign_attention,
    hard_attention,
    sign_attention,
    sparse_attention,
)

LOWEST = torch.finfo(torch.float32).min
SCALE = 0.5
Array = npt.NDArray[np.float64]


def reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, kind: str, k: int
) -> Array:
    """One query and one key at a time, as the method is told; the mask is added, None allows all."""
    q, keys, v = (each.double().numpy() for each in (query, key, value))
    added = np.zeros((*q.shape[:3], keys.shape[2]))
    added = added if mask is None else added + mask.double().numpy()
    answer = np.zeros((*q.shape[:3], v.shape[-1]))
    for place in np.ndindex(*q.shape[:3]):
        batch, head, _ = place
        real = np.flatnonzero(added[place] > LOWEST / 4)
        scores = keys[batch, head] @ q[place] * SCALE + added[place]
        matches = ((keys[batch, head] >= 0) == (q[place] >= 0)).sum(-1)
        if not real.size:
            continue
        if kind == "hard":
            weights = _softmax(scores[real])
            chosen = real[np.argsort(-weights, kind="stable")[:k]]
            answer[place] = np.sort(weights)[::-1][:k] @ v[batch, head, chosen]
            continue
        chosen = real[np.argsort(-matches[real], kind="stable")[:k]]
        equal = np.full(len(chosen), 1.0 / len(chosen))
        weights = equal if kind == "sign_average" else _softmax(scores[chosen])
        answer[place] = weights @ v[batch, head, chosen]
    return answer


def inputs(
    length: int, *, seed: int = 0, heads: int = 3, size: int = 8
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """With exact zeros of both signs, and with keys that agree with a query in as many signs as others do."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(2, heads, length, size, generator=generator) for _ in range(3))
    query[:, :, ::3, 0] = 0.0
    key[:, :, 1::4, 1] = -0.0
    key[:, :, length // 2 :] = key[:, :, : length - length // 2].clone()  # whole keys come twice
    return query, key, value


def padding(length: int) -> torch.Tensor:
    mask = torch.zeros(2, 1, 1, length)
    mask[1, ..., length // 3 :] = LOWEST
    return mask


def biased(length: int, heads: int = 3) -> torch.Tensor:
    """Padding, a local window, and something added for each head: as with relative positions."""
    away = (torch.arange(length)[:, None] - torch.arange(length)).abs() > 4
    local = torch.minimum(padding(length), away * LOWEST)
    return local + torch.randn(1, heads, length, length, generator=torch.Generator().manual_seed(1))


MASKS: dict[str, Any] = {"none": lambda length: None, "padding": padding, "window and bias": biased}


@pytest.mark.parametrize("kind", ["hard", "sign_softmax", "sign_average"])
@pytest.mark.parametrize("masked", MASKS)
@pytest.mark.parametrize("top_k", [1, 4, 50])
def test_every_kind_is_the_reference(kind: str, masked: str, top_k: int) -> None:
    query, key, value = inputs(14)
    if kind == "hard":
        key = key + torch.randn(key.shape, generator=torch.Generator().manual_seed(3))  # no two are equal
    mask = MASKS[masked](14)
    group = [{"kind": kind, "top_k": top_k, "heads": [0, 1, 2]}]
    answer = sparse_attention(query, key, value, mask, group, SCALE)
    expected = reference(query, key, value, mask, kind, top_k)
    rows = slice(None)
    if kind == "hard" and masked == "window and bias":
        rows = slice(0, 8)  # where nothing is allowed all is equal, and nobody's
    np.testing.assert_allclose(answer[:, :, rows], expected[:, :, rows], atol=1e-5)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("masked", MASKS)
@pytest.mark.parametrize("length", [40, ROWS + 61])
def test_long_inputs_are_answered_the_same(average: bool, masked: str, length: int) -> None:
    query, key, value = inputs(length)
    mask = MASKS[masked](length)
    dense = sign_attention(query, key, value, mask, 5, SCALE, average=average)
    long = gathered_sign_attention(query, key, value, mask, 5, SCALE, average=average)
    torch.testing.assert_close(long, dense, atol=1e-5, rtol=0)
    if masked == "padding":
        everything_else = mask > LOWEST / 4
        boolean = gathered_sign_attention(query, key, value, everything_else, 5, SCALE, average=average)
        torch.testing.assert_close(boolean, dense, atol=1e-5, rtol=0)


def test_without_int8_products_too(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = inputs(70)
    with_int8 = gathered_sign_attention(query, key, value, None, 5, SCALE, average=False)
    monkeypatch.delattr(torch, "_int_mm")
    assert axforge_sparse_attention.packed_signs(key).dtype == torch.float32
    without = gathered_sign_attention(query, key, value, None, 5, SCALE, average=False)
    torch.testing.assert_close(without, with_int8)


def test_long_inputs_take_the_fast_way_and_training_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(axforge_sparse_attention, "LONG", 30)
    query, key, value = inputs(40)
    group = [{"kind": "sign_softmax", "top_k": 3, "heads": [0, 1, 2]}]
    calls: list[int] = []

    def gathered(*given: Any, **named: Any) -> torch.Tensor:
        calls.append(1)
        return gathered_sign_attention(*given, **named)

    monkeypatch.setattr(axforge_sparse_attention, "gathered_sign_attention", gathered)
    value.requires_grad_(True)
    trained = sparse_attention(query, key, value, None, group, SCALE)
    assert not calls
    trained.sum().backward()
    assert value.grad is not None
    assert value.grad.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(sparse_attention(query, key, value, None, group, SCALE), trained.detach())
    assert calls


def test_of_equal_matches_the_first_are_chosen_and_zero_is_positive() -> None:
    query = torch.tensor([[[[0.0, 1.0, -1.0]]]])
    key = torch.tensor(
        [[[[-1, -1, 1], [5, 5, -5], [-0.0, 1, 1], [2, 3, -1], [1, 1, 1]]]], dtype=torch.float32
    )
    assert best_matches(query, key, None, 1).flatten().tolist() == [False, True, False, False, False]
    assert best_matches(query, key, None, 3).flatten().tolist() == [False, True, True, True, False]
    mask = torch.tensor([[[[True, False, True, False, True]]]])
    assert best_matches(query, key, mask, 2).flatten().tolist() == [False, False, True, False, True]
    assert best_matches(query, key, mask, 4).flatten().tolist() == [True, False, True, False, True]


def test_where_nothing_may_be_read_the_answer_is_0() -> None:
    query, key, value = inputs(6)
    mask = torch.full((2, 1, 1, 6), LOWEST)
    for average in (True, False):
        for attend in (sign_attention, gathered_sign_attention):
            assert not attend(query, key, value, mask, 3, SCALE, average=average).any()


def test_heads_differ() -> None:
    query, key, value = inputs(14, heads=4)
    mask = biased(14, heads=4)
    groups = [
        {"kind": "hard", "top_k": 3, "heads": [3]},
        {"kind": "sign_softmax", "top_k": 2, "heads": [0, 2]},
    ]
    answer = sparse_attention(query, key, value, mask, groups, SCALE)
    alone = {
        kind: sparse_attention(
            query, key, value, mask, [{"kind": kind, "top_k": k, "heads": [0, 1, 2, 3]}], SCALE
        )
        for kind, k in (("hard", 3), ("sign_softmax", 2))
    }
    soft = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=SCALE)
    torch.testing.assert_close(answer[:, 3], alone["hard"][:, 3])
    torch.testing.assert_close(answer[:, [0, 2]], alone["sign_softmax"][:, [0, 2]])
    torch.testing.assert_close(answer[:, 1], soft[:, 1])


def test_many_scores_are_worked_out_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = inputs(14)
    mask = biased(14)
    whole = hard_attention(query, key, value, mask, 4, SCALE)
    monkeypatch.setattr(axforge_sparse_attention, "DENSE_VALUES", 2 * 3 * 14 * 5)
    group = [{"kind": "hard", "top_k": 4, "heads": [0, 1, 2]}]
    torch.testing.assert_close(sparse_attention(query, key, value, mask, group, SCALE), whole)


def test_autocast_does_not_blur_the_choice() -> None:
    query, key, _ = inputs(300, size=64)
    plain = best_matches(query, key, None, 30)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(best_matches(query, key, None, 30), plain)


def _softmax(scores: Array) -> Array:
    shifted = np.exp(scores - scores.max())
    return shifted / shifted.sum()
