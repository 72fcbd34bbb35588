"""Graphs whose matrices have different precisions: what is in the file, and what it answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import Calibration, PruneLayers, Quantize, Recipe
from tests.engine.export_models import FAMILIES, padded_batch, tiny_classifier
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.graph import WORDS
from worker.engine.export.onnx import export_onnx, quantize_onnx, save_onnx_folder

Answer = np.ndarray
MIXED = Quantize(
    matrices={
        "layer.0.attention.input": "int4",
        "layer.0.ffn.output": "int4",
        "layer.2.attention.input": "fp16",
        "layer.2.ffn.input": "fp32",
    },
    embeddings="int4",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = wordpiece_tokenizer(["a few words", "and some more of them"], 100)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_each_matrix_gets_its_precision_and_the_answer_stays_near(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = tiny_classifier(family)
    source, target = tmp_path / "fp32.onnx", tmp_path / "mixed.onnx"
    export_onnx(model, tokenizer, source)
    narrow = model.get_input_embeddings().embedding_dim % 16 > 0
    quantize_onnx(source, target, MIXED.model_copy(update={"embeddings": "int8"}) if narrow else MIXED)
    near(model, source, target, 0.5)
    graph = onnx.load(target).graph
    shared = family == "albert"  # all layers have the matrices of the first
    blocks = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(blocks) >= (7 if shared else 2)
    half = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT16}
    floats = {
        one.name
        for one in graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) == 2 and "weight" in one.name
    }
    if not shared:
        assert half
        assert all(name.startswith("layer.2.attention") for name in half)
        assert {name for name in floats if "_scale" not in name} == {
            name for name in floats if name.startswith("layer.2.ffn_up")
        }
        assert any(name.startswith("layer.2.ffn_up") for name in floats)


def test_layers_keep_the_dense_numbers(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    dense = tiny_classifier("bert")
    model = sliced(dense, anatomy_of(dense).shape(Recipe(steps=(PruneLayers(layers=(0, 1)),))))
    step = Quantize(matrices={"layer.0.ffn.input": "fp32", "layer.2.ffn.input": "fp16"})
    path = save_onnx_folder(model, tokenizer, tmp_path, quantize=step, max_length=16)
    weights = {one.name: one.data_type for one in onnx.load(path).graph.initializer}
    assert weights["layer.0.ffn_up.weight.fp16"] == onnx.TensorProto.FLOAT16
    assert "layer.0.ffn_up.weight" not in weights


def test_layers_that_share_are_called_by_the_first(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = tiny_classifier("albert")
    model = sliced(dense, anatomy_of(dense).shape(Recipe(steps=(PruneLayers(layers=(0,)),))))
    step = Quantize(matrices={"layer.0.attention.input": "fp16"})
    path = save_onnx_folder(model, tokenizer, tmp_path, quantize=step, max_length=16)
    half = {one.name for one in onnx.load(path).graph.initializer if one.data_type == 10}
    assert "layer.0.attention.qkv.weight.fp16" in half
    assert any("attention.kv" in name for name in half)


def test_static_ranges_are_those_of_the_calibration_rows(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_classifier("bert")
    source, target = tmp_path / "fp32.onnx", tmp_path / "static.onnx"
    export_onnx(model, tokenizer, source)
    step = Quantize(calibration=Calibration(rows=3, seed=0))
    batch = {name: values.numpy() for name, values in padded_batch(model).items()}
    rows = [{name: values[row : row + 1] for name, values in batch.items()} for row in range(3)]
    quantize_onnx(source, target, step, calibration=rows)
    near(model, source, target, 0.5)
    kinds = {node.op_type for node in onnx.load(target).graph.node}
    assert "QuantizeLinear" in kinds
    assert not {"DynamicQuantizeLinear", "MatMulInteger", "Attention"} & kinds
    again = tmp_path / "again.onnx"
    quantize_onnx(source, again, step, calibration=rows)
    assert again.read_bytes() == target.read_bytes()
    narrow = tmp_path / "narrow.onnx"
    quantize_onnx(source, narrow, step, calibration=rows[2:])
    assert narrow.read_bytes() != target.read_bytes()
    with pytest.raises(ValueError, match="inputs to calibrate with"):
        quantize_onnx(source, target, step)


def test_half_precision_is_stored_and_nearly_exact(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = tiny_classifier("bert")
    source, target = tmp_path / "fp32.onnx", tmp_path / "half.onnx"
    export_onnx(model, tokenizer, source)
    quantize_onnx(source, target, Quantize(weights="fp16", embeddings="fp16"))
    near(model, source, target, 0.01)
    assert target.stat().st_size < 0.65 * source.stat().st_size
    assert f"{WORDS}.fp16" in {one.name for one in onnx.load(target).graph.initializer}


def test_the_same_step_writes_the_same_file(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    source = tmp_path / "fp32.onnx"
    export_onnx(tiny_classifier("bert"), tokenizer, source)
    for name in ("one", "other"):
        quantize_onnx(source, tmp_path / name, Quantize.model_validate(MIXED.model_dump(mode="json")))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_fewer_bits_are_fewer_bytes(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    source = tmp_path / "fp32.onnx"
    export_onnx(tiny_classifier("bert", hidden_size=128, intermediate_size=512), tokenizer, source)
    steps = {
        "fp16": Quantize(weights="fp16", embeddings="fp16"),
        "int8": Quantize(),
        "int4": Quantize(weights="int4", embeddings="int4"),
        "w4a8": Quantize(weights="w4a8", embeddings="int4"),
    }
    sizes = [source.stat().st_size]
    for name, step in steps.items():
        quantize_onnx(source, tmp_path / name, step)
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    # In 4 bits with a float scale for every 32 weights, and with a step size of 4 bits.
    assert sizes[0] > 1.8 * sizes[1]
    assert sizes[2] > 1.3 * sizes[3]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_stored_in_4_bits_are_computed_with_as_int8(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Once ONNX Runtime has loaded it, the graph is that of int8 down to the node, and it answers near it."""
    model = tiny_classifier(family)
    source = tmp_path / "fp32.onnx"
    export_onnx(model, tokenizer, source)
    operators = {}
    for name, step in {"int8": Quantize(), "w4a8": Quantize(weights="w4a8")}.items():
        quantize_onnx(source, tmp_path / name, step)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.loaded")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(tmp_path / name), options)
        loaded = onnx.load(tmp_path / f"{name}.loaded").graph
        operators[name] = sorted(node.op_type for node in loaded.node)
    assert operators["w4a8"] == operators["int8"]
    near(model, source, tmp_path / "w4a8", 0.7)
    kept = {one.data_type for one in onnx.load(tmp_path / "w4a8").graph.initializer if ".steps" in one.name}
    assert kept == {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}


def near(model: PreTrainedModel, source: Path, target: Path, share: float) -> None:
    """The target answers what the source does, up to a share of its range, and not exactly that."""
    batch = padded_batch(model)
    batch = {"token_type_ids": torch.zeros_like(batch["input_ids"]), **batch}
    answers: list[Answer] = []
    for path in (source, target):
        session = onnxruntime.InferenceSession(str(path))
        answers.append(
            session.run(None, {one.name: batch[one.name].numpy() for one in session.get_inputs()})[0]
        )
    assert 0 < np.abs(answers[0] - answers[1]).max() < share * np.ptp(answers[0])
