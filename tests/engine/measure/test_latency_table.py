from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.anatomy.shape import LayerShape, Shape
from worker.engine.export.onnx import layer_stack_onnx
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.latency_table import BlockCosts, Dimensions, LatencyTable, NarrowCosts
from worker.engine.measure.probing import ModelFile
from worker.engine.measure.table_fit import Stack, anchored, fit, monotone, planned_stacks
from worker.engine.measure.table_measure import latency_table

TABLE = LatencyTable(
    inner=BlockCosts((0, 6, 12), (0.1, 0.4, 0.5), (0, 1536), (0.1, 0.9)),
    last=BlockCosts((0, 12), (0.05, 0.25), (0, 1536), (0.05, 0.15)),
    fixed_ms=0.5,
    dense_ms=6.0,
    p50_over_mean=0.9,
    p95_over_mean=1.5,
)


def layer(heads: int, channels: int, *, present: bool = True) -> LayerShape:
    return LayerShape(tuple(range(heads)), tuple(range(channels)), present=present)


def test_a_prediction_is_the_fixed_part_and_every_block_of_a_layer_that_is_present() -> None:
    shape = Shape((layer(12, 1536), layer(3, 768), layer(0, 0), layer(6, 768), layer(1, 2, present=False)))
    assert TABLE.predict(shape) == pytest.approx(
        0.5 + (0.5 + 0.9) + (0.25 + 0.5) + (0.1 + 0.1) + (0.15 + 0.1)
    )
    assert TABLE.predict(shape, "p95") == pytest.approx(1.5 * TABLE.predict(shape))
    assert TABLE.predict(shape, "p50") == pytest.approx(0.9 * TABLE.predict(shape))
    assert TABLE.block_ms("attention", 9) == pytest.approx(0.45)
    assert TABLE.block_ms("ffn", 0) == 0.1


def test_no_model_is_predicted_to_take_no_time() -> None:
    nothing = BlockCosts((0, 12), (0.0, 0.0), (0, 1536), (0.0, 0.0))
    table = LatencyTable(nothing, nothing, 0.0, dense_ms=6.0, p50_over_mean=1.0, p95_over_mean=1.0)
    assert table.predict(Shape((layer(0, 0),))) == pytest.approx(0.06)


def test_a_table_survives_json() -> None:
    assert LatencyTable.from_json(json.loads(json.dumps(TABLE.to_json()))) == TABLE


@given(st.floats(0.05, 1.0), st.floats(0.1, 3.0), st.floats(0.2, 5.0), st.floats(0.0, 0.5))
def test_fit_finds_the_costs_that_the_stacks_were_made_of(
    bare: float, attention: float, ffn: float, call: float
) -> None:
    def layer_ms(heads: int, channels: int, last: bool) -> float:
        return (bare + attention * heads / 12 + ffn * channels / 1536) * (0.3 if last else 1.0)

    stacks = [
        Stack(s.depth, s.heads, s.channels, s.last, call + s.depth * layer_ms(s.heads, s.channels, s.last))
        for s in planned_stacks(12, 1536)
    ]
    for last, costs in enumerate(fit(stacks)):
        assert costs.head_counts[0] == costs.channel_counts[0] == 0
        assert (costs.head_counts[-1], costs.channel_counts[-1]) == (12, 1536)
        for heads in costs.head_counts:
            for channels in costs.channel_counts:
                expected = layer_ms(heads, channels, bool(last))
                assert costs.layer_ms(layer(heads, channels)) == pytest.approx(expected, rel=1e-6)


def test_without_stacks_of_last_layers_they_cost_what_inner_ones_do() -> None:
    planned = planned_stacks(4, 64, last=False)
    inner, last = fit([Stack(s.depth, s.heads, s.channels, ms=1.0 + s.depth) for s in planned])
    assert last == inner


@pytest.mark.parametrize(("heads", "channels"), [(1, 1), (2, 8), (4, 37), (12, 1536), (16, 4096)])
def test_a_plan_tells_every_width_apart(heads: int, channels: int) -> None:
    stacks = planned_stacks(heads, channels)
    assert len(stacks) == len(set(stacks))
    for last in (False, True):
        assert {0, heads} <= {stack.heads for stack in stacks if stack.last == last}
        assert {0, channels} <= {stack.channels for stack in stacks if stack.last == last}
    assert len(stacks) <= 18


@pytest.mark.parametrize(
    ("whole", "shallow", "scale", "fixed"),
    [
        (3.0, None, 1.0, 0.8),  # by the stacks alone: what they leave is fixed
        (3.0, 0.7, 1.15, 0.47),
        (3.0, 1.1, 0.95, 0.91),
        (3.0, 0.1, 3.0 / 2.2, 0.0),  # no less than nothing is fixed
        (3.0, 3.1, 1.0, 0.8),  # one layer slower than all: disturbed
        (2.0, None, 2.0 / 2.2, 0.0),
    ],
)
def test_a_table_predicts_the_whole_model_and_its_last_layer_alone(
    whole: float, shallow: float | None, scale: float, fixed: float
) -> None:
    others, last = 2.0, 0.2
    found = anchored(whole, shallow, others, last)
    assert found == pytest.approx((scale, fixed), abs=1e-9)
    assert found[1] + found[0] * (others + last) == pytest.approx(whole)
    if shallow is not None and 0.2 < shallow < whole:
        assert found[1] + found[0] * last == pytest.approx(shallow)


@given(*[st.floats(0.01, 100.0)] * 4)
def test_no_part_of_a_table_takes_less_than_nothing(
    whole: float, shallow: float, others: float, last: float
) -> None:
    assert min(anchored(whole, shallow, others, last)) >= 0.0
    assert min(anchored(whole, None, others, last)) >= 0.0


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=8))
def test_monotone_never_falls_and_leaves_what_rises_alone(values: list[float]) -> None:
    pooled = monotone(np.array(values))
    assert len(pooled) == len(values)
    assert (np.diff(pooled) >= -1e-12).all()
    assert pooled.sum() == pytest.approx(sum(values), abs=1e-9)
    rising = np.sort(np.array(values))
    np.testing.assert_array_equal(monotone(rising), rising)


NARROW = replace(
    TABLE,
    narrow=NarrowCosts(384, 192, BlockCosts((0, 6, 12), (0.08, 0.26, 0.35), (0, 1536), (0.05, 0.45))),
)


@pytest.mark.parametrize(("gone", "attention", "ffn"), [(0, 0.5, 0.9), (96, 0.425, 0.675), (192, 0.35, 0.45)])
def test_fewer_hidden_dimensions_cost_less_along_a_line(gone: int, attention: float, ffn: float) -> None:
    shape = Shape((layer(12, 1536),) * 3, hidden_gone=tuple(range(gone)))
    last = 0.25 * attention / 0.5 + 0.15 * ffn / 0.9
    assert NARROW.predict(shape) == pytest.approx(TABLE.fixed_ms + 2 * (attention + ffn) + last)
    assert LatencyTable.from_json(json.loads(json.dumps(NARROW.to_json()))) == NARROW


def test_what_was_not_timed_is_neither_free_nor_faster_than_in_proportion() -> None:
    whole = Shape((layer(12, 1536),) * 3)
    narrowest = replace(whole, hidden_gone=tuple(range(383)))
    assert TABLE.fixed_ms < NARROW.predict(narrowest) < 0.5 * NARROW.predict(whole)
    assert TABLE.predict(narrowest) == TABLE.predict(whole), "without a measurement nothing is gained"
    noisy = replace(
        NARROW, narrow=NarrowCosts(384, 192, BlockCosts((0, 12), (0.0, 0.0), (0, 1536), (0.0, 2.0)))
    )
    half = replace(whole, hidden_gone=tuple(range(192)))
    assert noisy.narrow is not None
    assert noisy.narrow.factor("attention", 12, 192, 0.5) == 0.5
    assert noisy.narrow.factor("ffn", 1536, 192, 0.9) == 1.0
    assert noisy.predict(half) < TABLE.predict(whole)


def _last_layer(channels: int, folder: Path) -> ModelFile:
    folder.mkdir()
    file = ModelFile(folder / "model.onnx")
    layer_stack_onnx(file.path, hidden_size=128, head_size=32, layers=[(4, channels)], quantized=False)
    return file


def measured(
    folder: Path, cache: Path, steps: list[tuple[int, int]], *, layers: int, channels: int, seconds: float
) -> LatencyTable:
    """The table of layers of 4 heads, as this machine is now."""
    dense = ModelFile(folder / "dense.onnx")
    if not dense.path.exists():
        whole = [(4, channels)] * layers
        layer_stack_onnx(dense.path, hidden_size=128, head_size=32, layers=whole, quantized=False)
    return latency_table(
        dense,
        BenchInputs.sample([[1] * 24], batch_size=2, calls=8),
        Dimensions(
            hidden_size=128, head_size=32, heads=4, channels=channels, layers=layers, narrower=layers > 2
        ),
        threads=1,
        shallow=partial(_last_layer, channels),
        cache=cache,
        seconds_per_stack=seconds,
        on_step=lambda step, total: steps.append((step, total)),
    )


def test_a_measured_table_is_kept(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    small = partial(measured, tmp_path, tmp_path / "cache", steps, layers=2, channels=64, seconds=0.01)
    table = small()
    assert steps == [(number, steps[0][1]) for number in range(steps[0][1])]
    done = len(steps)
    assert small() == table
    assert len(steps) == done, "it was measured again"


@pytest.mark.slow
def test_a_measured_table_tells_wide_layers_from_narrow_ones(tmp_path: Path) -> None:
    """Neighbours disturb a table; of five, one is measured in peace."""
    whole = Shape.full(4, 4, 2048)
    for number in range(5):
        table = measured(tmp_path, tmp_path / f"cache {number}", [], layers=4, channels=2048, seconds=0.1)
        ms = table.predict(whole)
        narrower = table.predict(replace(whole, hidden_gone=tuple(range(64))))
        if (
            ms == pytest.approx(table.dense_ms, rel=0.5)
            and table.predict(whole.with_layer(1, layer(4, 256))) < 0.95 * ms
            and table.predict(Shape((layer(4, 2048),))) < 0.7 * ms
            and 0.4 * ms < narrower < 0.95 * ms
        ):
            return
    pytest.fail(f"no table tells layers apart; the last one is {table.to_json()}")
