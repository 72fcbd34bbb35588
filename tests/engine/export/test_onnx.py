"""ONNX files: what int8 changes, what the folder holds, and graphs of single layers."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import HardAttention, Quantize, Recipe, SignMatchingAttention
from tests.engine.export_models import (
    CHANNELS,
    FAMILIES,
    HEADS,
    LAYERS,
    padded_batch,
    random_recipe,
    tiny_classifier,
)
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import as_axforge, sliced
from worker.engine.export.onnx import export_onnx, layer_stack_onnx, quantize_onnx, save_onnx_folder
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.torch_layers import layer_calls, write_stack


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return wordpiece_tokenizer(["a few words", "and some more of them"], 100)


def float_weights(path: Path) -> int:
    """Values in float tensors of more than one dimension: what int8 left alone.

    Tables of positions in scores take no part: they are small, and stay as they are.
    """
    tables = (
        one
        for one in onnx.load(path).graph.initializer
        if len(one.dims) > 1 and not one.name.startswith("relative.")
    )
    return sum(int(np.prod(one.dims)) for one in tables if one.data_type == onnx.TensorProto.FLOAT)


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_covers_every_weight_and_answers_nearly_the_same(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dense = tiny_classifier(family)
    # Signs flip within int8's rounding, and other tokens are then read: see the test below.
    steps = [each for each in random_recipe(2).steps if not isinstance(each, SignMatchingAttention)]
    recipe = Recipe(steps=(*steps, HardAttention(layer=3, top_k=4)))
    small = sliced(dense, anatomy_of(dense).shape(recipe))
    source, target = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    export_onnx(small, tokenizer, source)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        quantize_onnx(source, target, Quantize())
    assert not caplog.records
    assert float_weights(source) > 5_000
    assert float_weights(target) == 0
    batch = padded_batch(small)
    answers = []
    for path in (source, target):
        session = onnxruntime.InferenceSession(str(path))
        wanted = {given.name: batch[given.name].numpy() for given in session.get_inputs()}
        answers.append(session.run(None, wanted)[0])
    assert np.abs(answers[0] - answers[1]).max() < 0.25 * np.ptp(answers[0])
    assert np.abs(answers[0] - answers[1]).max() > 0


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "mpnet", "modernbert"])
def test_int8_of_sign_matching_covers_every_weight(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dense = tiny_classifier(family)
    recipe = Recipe(
        steps=(
            SignMatchingAttention(layer=1, top_k=3),
            SignMatchingAttention(layer=2, top_k=3, variant="average", heads=(0, 2)),
        )
    )
    small = sliced(dense, anatomy_of(dense).shape(recipe))
    source, target = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    export_onnx(small, tokenizer, source)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        quantize_onnx(source, target, Quantize())
    assert not caplog.records
    assert float_weights(target) == 0
    batch = padded_batch(small)
    session = onnxruntime.InferenceSession(str(target))
    wanted = {given.name: batch[given.name].numpy() for given in session.get_inputs()}
    assert np.isfinite(session.run(None, wanted)[0]).all()


def test_int4_embeddings_are_smaller_and_answer_nearly_the_same(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_classifier("bert")
    source, int8, int4 = (tmp_path / f"{name}.onnx" for name in ("fp32", "int8", "int4"))
    export_onnx(model, tokenizer, source)
    with caplog.at_level(logging.WARNING):
        quantize_onnx(source, int8, Quantize())
        quantize_onnx(source, int4, Quantize(embeddings="int4"))
    assert not caplog.records
    saved = int8.stat().st_size - int4.stat().st_size
    assert saved > 0.2 * model.config.vocab_size * model.config.hidden_size
    batch = padded_batch(model)
    answers = []
    for path in (source, int4):
        session = onnxruntime.InferenceSession(str(path))
        answers.append(
            session.run(None, {one.name: batch[one.name].numpy() for one in session.get_inputs()})[0]
        )
    assert 0 < np.abs(answers[0] - answers[1]).max() < 0.5 * np.ptp(answers[0])


def test_a_folder_holds_what_its_reader_needs(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = tiny_classifier("bert")
    graph = save_onnx_folder(model, tokenizer, tmp_path, quantize=Quantize(), max_length=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.json", "model.onnx", "tokenizer.json"]
    about = json.loads((tmp_path / "labels.json").read_text())
    assert about["labels"] == ["label 0", "label 1", "label 2"]
    assert [one.name for one in onnx.load(graph).graph.input] == about["inputs"]
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert len(alone.encode("some more words and some more words").ids) == 5
    # The tokenizer that was handed in still cuts and pads as its owner set it.
    assert tokenizer.backend_tokenizer.truncation is None


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_stacks_have_the_form_of_the_real_export(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = tiny_classifier(family)
    anatomy = anatomy_of(dense)
    export_onnx(dense, tokenizer, tmp_path / "whole.onnx")
    described = {"hidden_size": anatomy.hidden_size, "head_size": anatomy.head_size, "form": anatomy.form}
    layers, variants = [(HEADS, CHANNELS)] * LAYERS, anatomy.layer_variants
    stack = tmp_path / "stack.onnx"
    layer_stack_onnx(
        stack, layers=layers, layer_variants=variants, quantized=False, first_token_only=True, **described
    )
    whole, alone = operators(tmp_path / "whole.onnx"), operators(stack)
    assert whole["Attention"] + whole["MultiHeadAttention"] == LAYERS
    outside = 2 + ("projection" in anatomy.outside)
    assert whole["MatMul"] == alone["MatMul"] + outside
    for operator in ("Attention", "MultiHeadAttention", "SkipLayerNormalization", "Split", "Concat", "Cos"):
        assert whole[operator] == alone[operator], operator
    write_stack(tmp_path / "stack.json", {**described, "layers": layers, "layer_variants": variants})
    inputs = BenchInputs.sample([[1] * 7], batch_size=2, calls=1)
    (answer,) = (call() for call in layer_calls(tmp_path / "stack.json", inputs, 1, "cpu"))
    assert answer.shape == (2, anatomy.hidden_size)
    batch = next(inputs.batches())["input_ids"].shape
    torch.manual_seed(0)
    hidden = torch.randn(*batch, anatomy.hidden_size).numpy()
    given = {"hidden": hidden, "attention_mask": np.ones(batch, dtype=np.int64)}
    exported = onnxruntime.InferenceSession(str(stack)).run(["output"], given)[0]
    np.testing.assert_allclose(answer, exported[:, 0], atol=1e-4)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("first_token_only", [False, True])
def test_layer_stacks_run(quantized: bool, first_token_only: bool, tmp_path: Path) -> None:
    path = tmp_path / "stack.onnx"
    layers = [(2, 48), (0, 16), (3, 0), (4, 64)]
    layer_stack_onnx(
        path,
        hidden_size=32,
        head_size=8,
        layers=layers,
        quantized=quantized,
        first_token_only=first_token_only,
    )
    assert sorted(tmp_path.iterdir()) == [path]
    session = onnxruntime.InferenceSession(str(path))
    hidden = np.random.default_rng(0).standard_normal((2, 7, 32), dtype=np.float32)
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3])
    output = session.run(["output"], {"hidden": hidden, "attention_mask": mask})[0]
    assert output.shape == (2, 1 if first_token_only else 7, 32)
    hidden[1, 4:] += 1.0
    again = session.run(["output"], {"hidden": hidden, "attention_mask": mask})[0]
    unpadded = (slice(None), slice(0, 4))
    tolerance = 0.5 if quantized else 1e-5
    np.testing.assert_allclose(again[unpadded], output[unpadded], atol=tolerance)


def test_the_modelling_file_can_be_traced_by_torch(tmp_path: Path) -> None:
    """Whoever loads an exported folder can export it again with torch's own exporter."""
    dense = tiny_classifier("bert")
    sparse = HardAttention(layer=0, top_k=3), SignMatchingAttention(layer=1, top_k=3, heads=(1,))
    recipe = Recipe(steps=(*random_recipe(0).steps, *sparse))
    model = as_axforge(sliced(dense, anatomy_of(dense).shape(recipe))).eval()
    batch = {name: padded_batch(model)[name] for name in ("input_ids", "attention_mask")}

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids, attention_mask).logits

    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    path = tmp_path / "traced.onnx"
    torch.onnx.export(
        Logits().eval(),
        tuple(batch.values()),
        path,
        dynamo=True,
        dynamic_shapes=(free, free),
        input_names=list(batch),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path))
    one = {name: values[1:2, :6] for name, values in batch.items()}
    traced = session.run(None, {name: values.numpy() for name, values in one.items()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(traced, model(**one).logits.numpy(), atol=1e-4)
