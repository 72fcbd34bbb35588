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
        rounds=5,
        seconds=2.0,
        on_round=lambda: rounds.append(1),
    )
    assert 5 <= len(rounds) <= 10
    assert 3 <= compared.ratios("dense", "optimized").size <= 5
    assert compared.speedup("dense", "optimized") > 2.0
    assert compared.speedup("optimized", "dense") < 0.5
    assert compared["dense"].calls_ms.size >= 3 * 3 * 8, "a single shot is no measurement"
    assert compared["dense"].p95 >= compared["dense"].p50 > compared["optimized"].p50
    assert compared["optimized"].throughput > compared["dense"].throughput


def test_speedup_is_the_median_of_the_ratios_within_rounds() -> None:
    dense = Timing(np.array([[[4.0, 4.0]], [[40.0, 40.0]], [[6.0, 6.0]]]), 4)
    optimized = Timing(np.array([[[2.0, 2.0]], [[20.0, 20.0]], [[2.0, 2.0]]]), 4)
    compared = Comparison({"dense": dense, "optimized": optimized})
    assert compared.ratios("dense", "optimized").tolist() == [2.0, 2.0, 3.0]
    assert compared.speedup("dense", "optimized") == 2.0
    assert compared.spread("dense", "optimized") == pytest.approx(0.5)
    assert dense.mean == 6.0
    assert dense.throughput == pytest.approx(1000 * 4 / 12.0)
    assert optimized.p50 == 2.0


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


def test_disturbed_rounds_are_left_out_and_made_up_for() -> None:
    dense = ScriptedProbe([(4, 0), (90, 0.5), (4, 0), (4, 0), (5, 0)])
    optimized = ScriptedProbe([(2, 0), (2, 0), (50, 0.9), (2, 0), (2, 0.01)])
    inputs = BenchInputs.in_order([[1]] * 8, batch_size=1)
    compared = compare_running({"a": dense, "b": optimized}, inputs, rounds=3, warmup=0, seconds=0.1)
    assert sorted(compared.ratios("a", "b").tolist()) == [2.0, 2.0, 2.5]
    assert compared.waited == 0.0


def test_a_machine_that_is_never_quiet_is_said_to_be_so() -> None:
    waits = [0.9, 0.2, 0.8, 0.3, 0.7, 0.4]
    dense = ScriptedProbe([(10 * wait, wait) for wait in waits])
    optimized = ScriptedProbe([(1, 0)] * 6)
    inputs = BenchInputs.in_order([[1]] * 8, batch_size=1)
    compared = compare_running({"a": dense, "b": optimized}, inputs, rounds=3, warmup=0, seconds=0.1)
    assert compared.ratios("a", "b").tolist() == [2.0, 3.0, 4.0]
    assert compared.waited == 0.3


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


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds"):
        compare({}, BenchInputs.in_order([[1]], batch_size=1), threads=1, rounds=1)
