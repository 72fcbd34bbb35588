"""Rounding as ONNX Runtime's quantizers do it, and what it costs the loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from models.spec import Precision, PruneHeads, Quantize, Recipe
from tests.engine.decoder_models import tiny_decoder
from tests.engine.export_models import LAYERS, logits, padded_batch, tiny_classifier
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import as_axforge
from worker.engine.approximations.quantize import Quantization
from worker.engine.significance.quantization import (
    bytes_per_parameter,
    matrices,
    quantization_losses,
    rounded,
    rounded_weight,
)

PARTS = ("attention.input", "attention.output", "ffn.input", "ffn.output")


@pytest.mark.parametrize("precision", ["int8", "w4a8", "int4", "fp16"])
@pytest.mark.parametrize("inputs", [64, 40])
def test_rounds_as_the_file_is_rounded(precision: Precision, inputs: int, tmp_path: Path) -> None:
    weight = torch.randn(24, inputs, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    source, target = tmp_path / "fp32.onnx", tmp_path / "small.onnx"
    write_product(source, weight)
    Quantization().write(source, target, Quantize(weights=precision))
    # Rows of one 1 are exact in 8 bits: the answer is the weight that the file holds.
    held = run(target, np.eye(inputs, dtype=np.float32)).T
    difference = np.abs(held - rounded_weight(weight, precision).numpy()).max()
    assert difference < 1e-4 * np.abs(held).max()
    assert np.abs(held - weight.numpy()).max() > 0


def test_names_every_matrix_of_a_layer_once() -> None:
    for family in ("bert", "modernbert", "deberta-v2"):
        names = matrices(anatomy_of(tiny_classifier(family)))
        assert list(names) == [f"layer.{layer}.{part}" for layer in range(LAYERS) for part in PARTS]
    shared = matrices(anatomy_of(tiny_classifier("albert")))
    assert list(shared) == [f"layer.0.{part}" for part in PARTS]


def test_weights_that_lie_the_other_way_round_are_rounded_as_others() -> None:
    """GPT-2's, as the same matrices of its uniform form."""
    dense = tiny_decoder("gpt2")
    own = as_axforge(dense)
    batch = padded_batch(dense)
    for name in ("layer.0.attention.output", "layer.1.ffn.input"):
        answers = []
        for model in (dense, own):
            with rounded(matrices(anatomy_of(model))[name], "int4"):
                answers.append(logits(model, batch)[batch["attention_mask"].bool()])
        torch.testing.assert_close(*answers, rtol=0.0, atol=1e-4)
        assert not torch.allclose(answers[0], logits(dense, batch)[batch["attention_mask"].bool()], atol=1e-3)


def test_weights_are_put_back_and_the_loss_of_each_matrix_is_its_own() -> None:
    model = tiny_classifier("bert")
    anatomy, batch = anatomy_of(model), padded_batch(model)
    plain = logits(model, batch)
    losses = quantization_losses(
        anatomy, ("int4", "fp16"), lambda: float((logits(model, batch) - plain).square().mean())
    )
    assert torch.equal(logits(model, batch), plain)
    assert set(losses["int4"]) == set(matrices(anatomy))
    assert min(losses["int4"].values()) > 0
    assert len(set(losses["int4"].values())) == len(losses["int4"])
    assert max(losses["fp16"].values()) < 1e-2 * max(losses["int4"].values())


@pytest.mark.parametrize("precision", ["int8", "w4a8"])
def test_products_of_integers_round_what_goes_in_as_well(precision: Precision) -> None:
    linear = torch.nn.Linear(32, 8, bias=False)
    inputs = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with rounded([linear], precision):
        both = linear(inputs)
        weight_alone = torch.nn.functional.linear(inputs, linear.weight)
    assert not torch.equal(both, weight_alone)
    scale = (inputs.max() - inputs.min()) / 255
    error = (both - weight_alone).abs().max()
    assert error <= scale / 2 * linear.weight.abs().sum(dim=1).max() * 1.01


def test_bytes_of_a_weight_follow_the_recipe() -> None:
    anatomy = anatomy_of(tiny_classifier("bert"))
    assert bytes_per_parameter(anatomy, Recipe(steps=(PruneHeads(layer=0, heads=(0,)),))) == 4.0
    assert bytes_per_parameter(anatomy, Recipe(steps=(Quantize(),))) == 1.0
    all_int4 = Quantize(matrices=dict.fromkeys(matrices(anatomy), "int4"))
    assert bytes_per_parameter(anatomy, Recipe(steps=(all_int4,))) == pytest.approx(0.625)
    assert bytes_per_parameter(anatomy, Recipe(steps=(Quantize(weights="w4a8"),))) == pytest.approx(0.515625)


def write_product(path: Path, weight: torch.Tensor) -> None:
    name = "layer.0.ffn_up.weight"
    node = helper.make_node("MatMul", ["hidden", name], ["output"], name="product")
    outputs, inputs = weight.shape
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.numpy().T), name)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def run(path: Path, hidden: np.ndarray) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(str(path)).run(None, {"hidden": hidden})[0])
