"""Strategies that train masks: what they need, refused with the field and a remedy."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from models.spec import LEARNED, JobSpec

BOUNDED: dict[str, Any] = {
    "base_model": {"path": "m"},
    "dataset": {"path": "d"},
    "constraints": {"speed": {"min_speedup": 2.0}},
}
UNBOUNDED = {**BOUNDED, "constraints": {"accuracy": {"max_relative_drop": 0.01}}}


@pytest.mark.parametrize("strategy", LEARNED)
def test_one_word_changes_the_strategy(strategy: str) -> None:
    assert JobSpec.model_validate({**BOUNDED, "strategy": strategy}).strategy == strategy


@pytest.mark.parametrize("strategy", LEARNED)
def test_something_bounds_the_costs(strategy: str) -> None:
    field, told = _refusal({**UNBOUNDED, "strategy": strategy})
    assert field == "strategy"
    assert "give constraints.speed, constraints.size or learned.target" in told
    for bound in (
        {"constraints": {"size": {"max_bytes": 1_000_000}}},
        {"constraints": {"speed": {"min_throughput": 100.0}}},
        {"learned": {"target": 0.5, "constraint": "flops"}},
    ):
        JobSpec.model_validate({**UNBOUNDED, **bound, "strategy": strategy})


def test_weights_are_not_trained_where_training_is_forbidden() -> None:
    for recovery in ("off", "reconstruct"):
        for strategy in LEARNED[:2]:
            field, told = _refusal({**BOUNDED, "strategy": strategy, "recovery": recovery})
            assert field == "recovery"
            assert "take strategy faster-vtrans" in told
        JobSpec.model_validate({**BOUNDED, "strategy": "faster-vtrans", "recovery": recovery})


def test_there_is_something_to_mask() -> None:
    given = {**BOUNDED, "strategy": "vtrans", "approximations": ["quantize", "prune_vocabulary"]}
    assert _refusal(given)[0] == "approximations"
    JobSpec.model_validate({**given, "approximations": ["quantize", "prune_heads"]})


def test_native_shapes_are_not_learnt() -> None:
    given = {**BOUNDED, "constraints": {**BOUNDED["constraints"], "loadable": "native"}}
    assert "loadable native" in _refusal({**given, "strategy": "vtrans"})[1]


def _refusal(document: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(ValidationError) as raised:
        JobSpec.model_validate(document)
    (error,) = raised.value.errors()
    return str(error["loc"][0]), error["msg"]
