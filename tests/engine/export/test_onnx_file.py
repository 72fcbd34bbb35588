"""The file is what onnx writes, but for the order of its fields."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from worker.engine.export.onnx_file import UnsavedGraph, load_around, save_graph


def model(*sizes: int) -> onnx.ModelProto:
    weights = [
        numpy_helper.from_array(np.arange(size, dtype=np.float32), f"weight.{number}")
        for number, size in enumerate(sizes)
    ]
    node = helper.make_node("Add", ["given", "weight.0"], ["sum"], name="add")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("given", "sum")]
    graph = helper.make_graph([node], "graph", values[:1], values[1:], weights, doc_string="said")
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], producer_name="axforge")
    made.metadata_props.add(key="some", value="thing")
    return made


def test_is_read_as_what_was_written(tmp_path: Path) -> None:
    for sizes in ((1,), (3, 0, 200, 40_000)):
        written = model(*sizes)
        save_graph(written, tmp_path / "model.onnx")
        assert onnx.load(tmp_path / "model.onnx") == written
        onnx.checker.check_model(tmp_path / "model.onnx")


def test_holds_one_weight_at_a_time(tmp_path: Path) -> None:
    written = model(*[250_000] * 12)
    tracemalloc.start()
    save_graph(written, tmp_path / "model.onnx")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000 < (tmp_path / "model.onnx").stat().st_size / 2


def test_weights_that_are_in_no_message_are_written_as_if_they_were(tmp_path: Path) -> None:
    written = model(3, 0, 200, 40_000)
    written.graph.initializer.append(numpy_helper.from_array(np.array(7, dtype=np.int64), "scalar"))
    written.graph.initializer.append(
        numpy_helper.from_array(np.arange(6, dtype=np.int64).reshape(2, 3), "turned")
    )
    weights = {one.name: numpy_helper.to_array(one) for one in written.graph.initializer}
    weights["turned"] = np.asfortranarray(weights["turned"])
    without = model(3, 0, 200, 40_000)
    del without.graph.initializer[:]
    UnsavedGraph(without, weights).save(tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx") == written
    assert not weights


def test_writing_such_weights_takes_no_memory(tmp_path: Path) -> None:
    empty = model()
    weights = {"table": np.ones((1_000, 1_000), dtype=np.float32)}
    tracemalloc.start()
    UnsavedGraph(empty, weights).save(tmp_path / "model.onnx")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400_000 < (tmp_path / "model.onnx").stat().st_size / 10


def with_table(rows: int, width: int) -> onnx.ModelProto:
    made = model(3, 40_000)
    values = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    made.graph.initializer.insert(1, numpy_helper.from_array(values, "table"))
    return made


def test_a_table_may_stay_in_the_file(tmp_path: Path) -> None:
    written = with_table(1000, 7)
    save_graph(written, tmp_path / "model.onnx")
    read, table = load_around(tmp_path / "model.onnx", "table")
    assert table is not None
    pieces = list(table.pieces(300))
    assert [len(piece) for piece in pieces] == [300, 300, 300, 100]
    np.testing.assert_array_equal(np.concatenate(pieces), numpy_helper.to_array(written.graph.initializer[1]))
    assert [tensor.name for tensor in read.graph.initializer] == ["weight.0", "table", "weight.1"]
    assert list(read.graph.initializer[1].dims) == [0, 7]
    read.graph.initializer[1].CopyFrom(written.graph.initializer[1])
    assert read == written


def test_what_is_no_table_is_read_as_usual(tmp_path: Path) -> None:
    written = with_table(2, 3)
    save_graph(written, tmp_path / "model.onnx")
    for name in ("weight.1", "not there"):
        assert load_around(tmp_path / "model.onnx", name) == (written, None)
    whole = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no ONNX model"):
        load_around(tmp_path / "cut.onnx", "table")


def test_a_table_that_stays_takes_no_memory(tmp_path: Path) -> None:
    save_graph(with_table(500_000, 8), tmp_path / "model.onnx")
    tracemalloc.start()
    _, table = load_around(tmp_path / "model.onnx", "table")
    assert table is not None
    assert sum(float(piece[:, 0].sum()) for piece in table.pieces(1000)) > 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000 < (tmp_path / "model.onnx").stat().st_size / 10
