"""What sparse heads add to a predicted time, and how that is measured."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.engine.anatomy.shape import LayerShape, Shape
from worker.engine.approximations.sparse_heads import SparseHead, made_sparse
from worker.engine.measure import sparse_measure
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.latency import Comparison, Timing
from worker.engine.measure.latency_table import BlockCosts, Dimensions, LatencyTable
from worker.engine.measure.probing import ModelFile
from worker.engine.measure.sparse_costs import SparseCosts
from worker.engine.measure.sparse_measure import sparse_costs

BLOCKS = BlockCosts((0, 4), (0.0, 4.0), (0, 8), (0.0, 2.0))
COSTS = SparseCosts((1, 4), {"hard": (1.0, 2.5)}, {"hard": (0.1, 0.2)})
TABLE = LatencyTable(BLOCKS, BLOCKS, 1.0, 40.0, 1.0, 1.0)
DIMENSIONS = Dimensions(hidden_size=16, head_size=4, heads=4, channels=32, layers=2)


def shape_with(*sparse: tuple[SparseHead, ...]) -> Shape:
    return Shape(tuple(LayerShape((0, 1, 2, 3), tuple(range(8)), sparse=each) for each in sparse))


def hard(*heads: int) -> tuple[SparseHead, ...]:
    return made_sparse((), heads, "hard", 30)


def test_sparse_heads_cost_what_was_measured_and_the_last_layer_less() -> None:
    table = replace(TABLE, sparse=COSTS)
    soft = table.predict(shape_with((), ()))
    assert soft == TABLE.predict(shape_with((), ())) == 13.0
    added = [
        table.predict(shape) - soft
        for shape in (
            shape_with(hard(2), ()),
            shape_with(hard(0, 1), ()),
            shape_with(hard(0, 1, 2, 3), ()),
            shape_with((), hard(0, 1, 2, 3)),
            shape_with(made_sparse((), (0,), "sign_average", 30), ()),  # was not timed
        )
    ]
    assert added == pytest.approx([1.0, 1.5, 2.5, 0.2, 0.0])
    assert TABLE.predict(shape_with(hard(2), ())) == soft


def test_a_table_with_sparse_costs_survives_json() -> None:
    for table in (TABLE, replace(TABLE, sparse=COSTS)):
        assert LatencyTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_what_a_layer_adds_is_its_stacks_time_less_the_soft_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a clock that a test writes down: calls of the whole model take 10 ms."""
    ms = {
        "whole": 10.0,
        "inner-0": 4.0,
        "inner-1": 5.5,
        "inner-4": 3.9,
        "last-0": 1.0,
        "last-1": 1.1,
        "last-4": 1.4,
    }
    asked: list[dict[str, Any]] = []

    def beside(whole: Any, models: dict[str, ModelFile], *given: Any) -> Comparison:
        asked.append(dict(models))
        timings = {name: Timing(np.full((3, 3, 1), ms[name]), 1) for name in ("whole", *models)}
        return Comparison(timings)

    monkeypatch.setattr(sparse_measure, "beside", beside)
    monkeypatch.setattr(sparse_measure, "probe", _no_probe)
    monkeypatch.setattr(sparse_measure, "table_key", lambda *given: "key")
    given: dict[str, Any] = {"top_k": 30, "whole_ms": 20.0, "threads": 1, "cache": tmp_path}
    inputs = BenchInputs.in_order([np.array([1, 2, 3])], batch_size=1)
    dense = ModelFile(tmp_path / "dense.onnx")
    costs = sparse_costs(dense, inputs, DIMENSIONS, ["hard"], **given)
    assert costs.head_counts == (1, 4)
    # Twice the 10 ms: the table speaks of a whole model that takes 20.
    assert costs.inner_ms["hard"] == pytest.approx((1.0, 0.0))
    assert costs.last_ms["hard"] == pytest.approx((0.2, 0.8))
    assert [sorted(models) for models in asked] == [sorted(name for name in ms if name != "whole")]
    again = sparse_costs(dense, inputs, DIMENSIONS, ["hard"], **{**given, "whole_ms": 10.0})
    assert again.last_ms["hard"] == pytest.approx((0.1, 0.4))
    assert len(asked) == 1, "it was read back"
    assert asdict(again)["head_counts"] == (1, 4)


class _no_probe:
    def __init__(self, *given: Any, **named: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...
