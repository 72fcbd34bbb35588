"""The file is what onnx writes, but for the order of its fields."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from worker.engine.export.onnx_file import save_graph


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
