"""Word embeddings quantized piece by piece: what ONNX Runtime writes, or looks up, of the whole table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import Quantize
from tests.engine.decoder_models import tiny_decoder
from tests.engine.export_models import tiny_classifier
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.approximations import quantize, word_table
from worker.engine.export.graph import IR_VERSION, WORDS
from worker.engine.export.onnx import export_onnx, quantize_onnx


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return wordpiece_tokenizer(["a few words", "and some more of them"], 100)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_table, "ROWS", 7)


def weights(path: Path) -> dict[str, tuple[list[int], int, bytes]]:
    tensors = onnx.load(path).graph.initializer
    return {
        one.name: (list(one.dims), one.data_type, numpy_helper.to_array(one).tobytes()) for one in tensors
    }


def test_int8_is_what_the_quantizer_makes_of_all_rows(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    source, target, whole = (tmp_path / f"{name}.onnx" for name in ("source", "target", "whole"))
    export_onnx(tiny_classifier("bert"), tokenizer, source)
    quantize_onnx(source, target, Quantize())
    graph = onnx.load(source)
    del graph.graph.value_info[:]
    onnx.save(graph, whole)
    quantize_dynamic(
        whole,
        whole,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    assert len(weights(target)[f"{WORDS}_quantized"][2]) > 7 * 32
    assert weights(target) == weights(whole)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_int4_rows_are_what_the_quantizers_own_look_up_answers(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = tiny_classifier(family) if family == "bert" else tiny_decoder(family)
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    export_onnx(model, tokenizer, source)
    quantize_onnx(source, target, Quantize(embeddings="int4"))
    whole = tmp_path / "whole.onnx"
    onnx.save(quantize._with_int4_words(onnx.load(source)), whole)
    (node,) = (each for each in onnx.load(whole).graph.node if each.op_type == "GatherBlockQuantized")
    assert "GatherBlockQuantized" not in {each.op_type for each in onnx.load(target).graph.node}
    ids = np.arange(model.get_input_embeddings().num_embeddings)[None]
    mine, theirs = (looked_up(path, node.output[0], ids) for path in (target, whole))
    assert mine.shape == (*ids.shape, model.config.hidden_size)
    np.testing.assert_array_equal(mine, theirs)


def looked_up(path: Path, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """The value `name` of a graph's beginning."""
    graph = onnx.load(path).graph
    nodes, wanted = [], {name}
    for node in reversed(graph.node):
        if wanted & set(node.output):
            nodes.insert(0, node)
            wanted |= set(node.input)
    part = onnx.helper.make_graph(
        nodes,
        "part",
        [each for each in graph.input if each.name in wanted],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
        [each for each in graph.initializer if each.name in wanted],
    )
    imports = onnx.load(path).opset_import
    model = onnx.helper.make_model(part, opset_imports=imports, ir_version=IR_VERSION)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([name], {"input_ids": ids})[0])


def test_a_table_that_is_the_head_too_stays_whole(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = tiny_decoder("gpt2")
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    export_onnx(model, tokenizer, source)
    quantize_onnx(source, target, Quantize())
    assert weights(target)[WORDS][0] == list(model.get_input_embeddings().weight.shape)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tables_in_floats_are_whole(
    precision: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = tiny_classifier("bert")
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    export_onnx(model, tokenizer, source)
    quantize_onnx(source, target, Quantize(embeddings=precision))
    name = WORDS if precision == "fp32" else f"{WORDS}.fp16"
    stored = next(one for one in onnx.load(target).graph.initializer if one.name == name)
    table = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(numpy_helper.to_array(stored), table, atol=1e-3)
