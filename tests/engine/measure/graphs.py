"""Tiny ONNX classifiers made by hand: token ids to logits through as many square products as wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from worker.engine.tasks import TASKS, Scorer, Split


def write_classifier(
    path: Path, *, products: int = 1, width: int = 32, classes: int = 3, seed: int = 0
) -> Path:
    """ids [b, n] to logits [b, classes]: embedding, tanh(x W) `products` times, sum over real tokens."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[0]).astype(np.float32)
        return numpy_helper.from_array(values, name)

    initializers = [weight("table", 50, width), weight("head", width, classes)]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x0"])]
    for index in range(products):
        initializers.append(weight(f"w{index}", width, width))
        nodes.append(helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"m{index}"]))
        nodes.append(helper.make_node("Tanh", [f"m{index}"], [f"x{index + 1}"]))
    initializers.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), "last"))
    initializers.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "second"))
    nodes += [
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["column"]),
        helper.make_node("Mul", [f"x{products}", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "second"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["logits"]),
    ]
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(nodes, "classifier", ids, [logits], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def token_rows(rows: int, *, seed: int = 0, longest: int = 12) -> list[list[int]]:
    """Ragged token ids below 50."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 50, size=rng.integers(2, longest + 1)).tolist() for _ in range(rows)]


def scorer(rows: list[list[int]], labels: np.ndarray, metric: str = "accuracy") -> Scorer:
    """The score of a classifier on `rows` whose right classes are `labels`."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    split = Split(np.concatenate([np.asarray(row) for row in rows]), offsets, labels, pad_id=0)
    return Scorer(TASKS["text-classification"], metric, split)
