"""int8 weights in 4 bits: how near they stay, and what the file holds of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from worker.engine.approximations.w4a8 import BLOCK, SIZES, from_steps, in_steps, store_in_steps


def weights(inputs: int, outputs: int, most: int = 64) -> NDArray[np.int8]:
    values = np.random.default_rng(0).normal(size=(inputs, outputs))
    rounded: NDArray[np.int8] = np.rint(most * values / np.abs(values).max(axis=0)).astype(np.int8)
    return rounded


@pytest.mark.parametrize("inputs", [BLOCK, 3 * BLOCK, 40, 5])
def test_every_weight_stays_within_a_step(inputs: int) -> None:
    weight = weights(inputs, 24)
    steps, places = in_steps(weight)
    blocks = -(-inputs // BLOCK)
    assert steps.shape == (blocks, BLOCK, 24)
    assert places.shape == (blocks, 1, 24)
    assert steps.min() >= -8
    assert steps.max() <= 7
    read = from_steps(steps, places, inputs)
    assert np.abs(read).max() <= 64  # more would overflow where pairs of products are added in 16 bits
    sizes = np.abs(SIZES[places]).repeat(BLOCK, axis=1).reshape(-1, 24)[:inputs]
    # A step too small for the largest weight is taken only where all others gain more by it.
    assert np.abs(read - weight).max() <= 8
    assert np.mean(np.abs(read - weight.astype(int)) <= sizes / 2) > 0.95


def test_what_has_few_levels_is_kept_exactly() -> None:
    for scale in (1, 8):
        weight = scale * np.random.default_rng(1).integers(-7, 8, size=(2 * BLOCK, 6)).astype(np.int8)
        weight[::BLOCK] = -8 * scale  # either end may be the longer one
        assert np.array_equal(from_steps(*in_steps(weight), 2 * BLOCK), weight)
        assert np.array_equal(from_steps(*in_steps(-weight), 2 * BLOCK), -weight)
    nothing = np.zeros((BLOCK, 2), np.int8)
    assert np.array_equal(from_steps(*in_steps(nothing), BLOCK), nothing)


def test_no_step_size_of_the_block_would_be_better() -> None:
    weight = weights(BLOCK, 50)
    chosen = np.square(from_steps(*in_steps(weight), BLOCK).astype(int) - weight).sum(axis=0)
    errors = []
    for size in SIZES:
        steps = np.clip(np.rint(weight / size), -8, 7)
        errors.append(np.square(steps * size - weight).sum(axis=0))
    assert np.mean(chosen <= np.min(errors, axis=0) * 1.001) > 0.9


@pytest.mark.parametrize("inputs", [2 * BLOCK, 40])
def test_the_runtime_reads_back_what_was_stored(inputs: int) -> None:
    """Weights of odd shapes too; what is stored is half of the bytes, and constants are there once."""
    held = {name: weights(inputs, outputs) for name, outputs in {"a": 7, "b": 7, "c": 16}.items()}
    made = [helper.make_node("Identity", [name], [f"{name}.out"], name=name) for name in held]
    graph = helper.make_graph(
        made,
        "weights",
        [],
        [
            helper.make_tensor_value_info(f"{name}.out", TensorProto.INT8, value.shape)
            for name, value in held.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    store_in_steps(model, {"a", "b"})
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    read = dict(zip((one.name for one in session.get_outputs()), session.run(None, {}), strict=True))
    for name in ("a", "b"):
        assert np.array_equal(read[f"{name}.out"], from_steps(*in_steps(held[name]), inputs))
    assert np.array_equal(read["c.out"], held["c"])
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(names) == len(set(names))
    of_a = sum(len(one.raw_data) for one in model.graph.initializer if one.name.startswith("a."))
    filled = -(-inputs // BLOCK) * BLOCK
    assert of_a == -(-(filled * 7) // 2) + -(-(filled // BLOCK * 7) // 2)
