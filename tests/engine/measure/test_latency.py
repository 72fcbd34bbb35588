from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.measure.graphs import token_rows, write_classifier
from worker.engine.errors import Stopped
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.latency import Comparison, Timing, compare, compare_running
from worker.engine.measure.probing import ModelFile, Probe, Turn


def test_a_model_of_a_tenth_of_the_products_is_faster(tmp_path: Path) -> None:
    large = write_classifier(tmp_path / "large.onnx", products=60, width=256)
    small = write_classifier(tmp_path / "small.onnx", products=6, width=256)
    rounds = []
    compared = compare(
        {"dense": ModelFile(large), "optimized": ModelFile(small)},
        BenchInputs.sample(token_rows(64), batch_size=2, calls=32),
        threads=1,
        seconds=1.5,
        on_round=lambda: rounds.append(1),
    )
    assert 3 <= len(rounds) <= 5
    assert compared.speedup("dense", "optimized") > 2.0
    assert compared.speedup("optimized", "dense") < 0.5
    assert compared["dense"].calls_ms.size >= 3 * 3 * 8, "a single shot is no measurement"
    assert compared["dense"].p95 >= compared["dense"].p50 > compared["optimized"].p50
    assert compared["optimized"].throughput > compared["dense"].throughput


def test_the_ratio_is_that_of_the_fastest_rounds() -> None:
    dense = Timing(np.array([[[4.0, 4.0]], [[40.0, 40.0]], [[6.0, 6.0]]]), 4)
    optimized = Timing(np.array([[[2.5, 2.5]], [[20.0, 20.0]], [[2.0, 2.0]]]), 4)
    compared = Comparison({"dense": dense, "optimized": optimized})
    assert compared.speedup("dense", "optimized") == 2.0
    assert compared.median_speedup("dense", "optimized") == 2.0
    assert compared.spread("dense", "optimized") == pytest.approx((3.0 - 1.6) / 2.0)
    assert dense.fastest == 4.0
    assert dense.throughput == pytest.approx(1000 * 4 / 8.0)
    assert optimized.p50 == pytest.approx(2.5)


def test_a_disturbed_pass_moves_the_percentiles_but_not_the_ratio() -> None:
    quiet = np.full((3, 3, 5), 2.0)
    disturbed = quiet.copy()
    disturbed[:, 1, :] = 50.0
    compared = Comparison({"dense": Timing(quiet, 5), "optimized": Timing(disturbed, 5)})
    assert compared.speedup("dense", "optimized") == 1.0
    assert compared["optimized"].p95 == 50.0


class ScriptedProbe(Probe):
    """Answers turns whose time and waiting are given."""

    def __init__(self, turns: list[tuple[float, float]]) -> None:
        self.turns = iter([(1.0, 0.0), *turns])  # the first is the trial

    def timed(self, *, calls: int, repeats: int = 1, warmup: int = 0) -> Turn:
        ms, waited = next(self.turns)
        return Turn(np.full((repeats, calls), ms), waited)


def test_a_machine_that_is_never_quiet_is_said_to_be_so() -> None:
    dense = ScriptedProbe([(10, 0.9), (8, 0.3), (9, 0.4)])
    optimized = ScriptedProbe([(1, 0), (4, 0.1), (3, 0)])
    inputs = BenchInputs.in_order([[1]] * 8, batch_size=1)
    compared = compare_running({"a": dense, "b": optimized}, inputs, warmup=0, seconds=0.1)
    assert compared.speedup("a", "b") == 8.0
    assert compared.waited == 0.4


def test_a_comparison_ends_in_time_whatever_surrounds_a_turn() -> None:
    now = iter([0.0, *[10.0] * 100])
    dense, optimized = ScriptedProbe([(2, 0)] * 40), ScriptedProbe([(1, 0)] * 40)
    inputs = BenchInputs.in_order([[1]] * 8, batch_size=1)
    rounds: list[int] = []
    compare_running(
        {"a": dense, "b": optimized},
        inputs,
        warmup=0,
        seconds=4.0,
        on_round=lambda: rounds.append(1),
        clock=lambda: next(now),
    )
    assert len(rounds) == 3, "fewer rounds give no minimum"


def test_stopping_between_rounds_leaves_the_comparison(tmp_path: Path) -> None:
    model = ModelFile(write_classifier(tmp_path / "model.onnx"))

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        compare(
            {"dense": model},
            BenchInputs.sample(token_rows(4), batch_size=1, calls=4),
            threads=1,
            seconds=0.5,
            on_round=stop,
        )
