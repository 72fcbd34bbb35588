from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.training.conftest import Keywords, tiny_bert
from worker.engine.errors import Stopped
from worker.engine.reporting import SilentReporter
from worker.engine.tasks import evaluate
from worker.engine.training import FitOptions, fine_tune
from worker.engine.training.loop import Pace
from worker.engine.training.vocabulary import CompactVocabulary

QUICK = FitOptions(epochs=6, learning_rate=3e-3, precision="fp32", patience=None)


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


class Recording(SilentReporter):
    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: list[tuple[str, int, int | None]] = []
        self.stop_at = stop_at

    def progress(
        self, stage: Any, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        self.steps.append((stage, step, total))
        assert "loss" in metrics

    def check(self) -> None:
        if self.stop_at is not None and len(self.steps) >= self.stop_at:
            raise Stopped


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_learns_and_holds_the_best_weights(keywords: Keywords, precision: Any) -> None:
    model = tiny_bert()
    options = FitOptions(epochs=6, learning_rate=3e-3, precision=precision)
    result = fine_tune(model, *keywords.parts, options, device=keywords.device)
    assert result.best_metric > 0.95
    judged = evaluate(
        model, keywords.selection, keywords.task, batch_size=64, device=keywords.device, precision=precision
    )
    assert judged.metrics["accuracy"] == result.best_metric
    assert judged.loss == pytest.approx(result.best_loss, abs=1e-6)
    assert result.best_metric == max(record.metric for record in result.history)


def test_same_seed_same_weights(keywords: Keywords) -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        model = tiny_bert()
        options = FitOptions(epochs=1, learning_rate=1e-3, seed=seed)
        fine_tune(model, *keywords.parts, options, device=keywords.device)
        return weights_of(model)

    first = trained(0)
    torch.manual_seed(99)  # what the caller drew before must not matter
    assert same(first, trained(0))
    assert not same(first, trained(1))


def test_training_leaves_the_caller_s_random_numbers_alone(keywords: Keywords) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = tiny_bert()
    torch.manual_seed(5)
    fine_tune(model, *keywords.parts, FitOptions(epochs=1), device=keywords.device)
    assert torch.equal(torch.rand(1), expected)


def test_ends_when_patience_is_used_up(keywords: Keywords) -> None:
    options = FitOptions(epochs=50, learning_rate=3e-3, patience=2, precision="fp32")
    result = fine_tune(tiny_bert(), *keywords.parts, options, device=keywords.device)
    assert result.stopped_by == "patience"
    assert result.epochs == result.best_epoch + 2 < 50


def test_ends_in_time_with_a_decayed_learning_rate(keywords: Keywords) -> None:
    options = FitOptions(epochs=1000, learning_rate=3e-3, max_seconds=2.0, patience=None)
    started = time.monotonic()
    result = fine_tune(tiny_bert(), *keywords.parts, options, device=keywords.device)
    assert time.monotonic() - started < 10
    assert result.stopped_by == "time"
    assert result.history
    assert 0 < result.steps < 1000 * keywords.train.batch_count(32)


def test_tells_every_step_of_the_stage(keywords: Keywords) -> None:
    reporter = Recording()
    fine_tune(
        tiny_bert(),
        *keywords.parts,
        FitOptions(epochs=2),
        device=keywords.device,
        reporter=reporter,
        stage="recover",
    )
    steps = 2 * keywords.train.batch_count(32)
    assert {(stage, total) for stage, _, total in reporter.steps} == {("recover", steps)}
    assert sorted({step for _, step, _ in reporter.steps}) == list(range(1, steps + 1))


def test_stops_within_a_step_and_gives_the_model_back_whole(keywords: Keywords) -> None:
    model = tiny_bert()
    reporter = Recording(stop_at=5)
    with pytest.raises(Stopped):
        fine_tune(model, *keywords.parts, QUICK, device=keywords.device, reporter=reporter)
    assert len(reporter.steps) == 5
    assert model.get_input_embeddings().num_embeddings == 100


def test_rows_of_the_vocabulary_that_never_occur_stay_as_they_are(keywords: Keywords) -> None:
    model = tiny_bert()
    before = model.get_input_embeddings().weight.detach().clone()
    fine_tune(model, *keywords.parts, QUICK, device=keywords.device)
    changed = (model.get_input_embeddings().weight.detach() != before).any(dim=1)
    used = np.unique(keywords.train.ids)
    assert changed[torch.from_numpy(used)].all()
    unused = sorted(set(range(100)) - set(used.tolist()) - {0})
    assert not changed[unused].any()


def test_the_small_table_computes_what_the_full_one_does(keywords: Keywords) -> None:
    model = tiny_bert()
    vocabulary = CompactVocabulary.of(model, keywords.train)
    arguments = {"batch_size": 64, "device": keywords.device}
    full = evaluate(model, keywords.train, keywords.task, **arguments)
    with vocabulary.compact():
        assert model.get_input_embeddings().num_embeddings < 100
        small = evaluate(model, vocabulary.split, keywords.task, **arguments)
    np.testing.assert_allclose(small.logits, full.logits, atol=1e-6)


def test_learning_rate_rises_and_falls_to_zero() -> None:
    pace = Pace(100, None, warmup=0.1)
    factors = [pace.factor(step) for step in range(101)]
    assert factors[9] == 1.0
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == 0.0


def test_pace_shortens_the_plan_only_when_it_must(clock: list[float]) -> None:
    relaxed, pressed = Pace(100, 1000.0, 0.1), Pace(100, 50.0, 0.1)
    clock[0] = 20.0
    relaxed.after(20)
    pressed.after(20)
    assert (relaxed.total, relaxed.out_of_time) == (100, False)
    assert (pressed.total, pressed.out_of_time) == (50, True)
    clock[0] = 50.0
    pressed.after(33)
    assert pressed.total == 33


def test_steps_that_seemed_slow_at_first_are_done_after_all(clock: list[float]) -> None:
    pace = Pace(100, 60.0, 0.1)
    clock[0] = 20.0
    pace.after(20)
    assert pace.total == 60
    clock[0] = 30.0
    pace.after(40)  # 0.75 seconds a step from here on
    assert pace.total == 80
    clock[0] = 30.0 + 15.0
    pace.after(80)
    assert (pace.total, pace.out_of_time) == (100, False)


@pytest.mark.parametrize(
    ("seconds", "total"),
    [
        (200.0, 120),  # the other 60 of the first pass at 2 seconds each, 40 more at 1
        (90.0, 45),  # not even the first pass
    ],
)
def test_what_is_done_once_is_not_counted_for_later_passes(
    clock: list[float], seconds: float, total: int
) -> None:
    pace = Pace(1000, seconds, 0.1, each_pass=80)
    clock[0] = 40.0
    pace.after(20, once=20.0)
    assert pace.total == total


def test_a_warm_up_is_a_part_of_what_there_is_time_for(clock: list[float]) -> None:
    pace = Pace(1000, 200.0, 0.1)
    assert pace.factor(19) == pytest.approx(0.2)
    clock[0] = 20.0
    pace.after(20)
    assert (pace.total, pace.warmup) == (200, 20)
    clock[0] = 180.0
    pace.after(180)
    assert pace.warmup == 20  # it is over
    assert pace.factor(pace.total) == 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds on the clock, to be set."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now
