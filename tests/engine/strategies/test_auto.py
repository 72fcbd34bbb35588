"""What strategy `auto` does about recovery, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.spec import JobSpec
from worker.engine.decision import Decision
from worker.engine.strategies.auto import Found, chosen_recovery

FOUND = Found(saving=2.0, keeps_accuracy=False, seconds_left=600.0, pass_seconds=30.0)


@pytest.mark.parametrize(
    ("found", "recovery", "told"),
    [
        (FOUND, None, "Distillation"),
        (replace(FOUND, keeps_accuracy=True), "reconstruct", "keeps the accuracy"),
        (replace(FOUND, seconds_left=29.0), "off", "29 s of the budget are left"),
        (replace(FOUND, keeps_accuracy=None), None, "2.00 times less"),
        (replace(FOUND, keeps_accuracy=None, saving=1.4), "reconstruct", "no accuracy is asked for"),
    ],
)
def test_the_rule(found: Found, recovery: str | None, told: str) -> None:
    choice = chosen_recovery(found)
    assert choice.recovery == recovery
    assert told in choice.why


def test_a_decision_changes_the_recovery_and_nothing_else() -> None:
    asked = _spec()
    assert Decision().applied(asked) is asked
    kept = Decision.from_json(Decision("off", ("why",)).to_json())
    assert kept.notes == ("why",)
    assert kept.applied(asked) == asked.model_copy(update={"recovery": "off"})


def test_native_rules_approximations_out_that_no_stock_class_holds() -> None:
    asked = _spec(constraints={"loadable": "native"})
    assert Decision().applied(asked).approximations == (
        *("prune_layers", "prune_weight_groups", "prune_vocabulary", "quantize"),
    )


def test_native_needs_something_to_work_with() -> None:
    with pytest.raises(ValueError, match="native allows none of these"):
        _spec(constraints={"loadable": "native"}, approximations=["prune_heads"])
    with pytest.raises(ValueError, match="add it to exports"):
        _spec(constraints={"loadable": "native"}, exports=["onnx"])


def _spec(**changes: object) -> JobSpec:
    return JobSpec.model_validate({"base_model": {"path": "m"}, "dataset": {"path": "d"}} | changes)
