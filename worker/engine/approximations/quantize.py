"""Weights of an exported graph in fewer bits, matrix by matrix, by ONNX Runtime's quantizers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.spec import Precision, Quantize
from worker.engine.approximations.base import Approximation
from worker.engine.approximations.tied_table import with_int8_table
from worker.engine.approximations.w4a8 import store_in_steps
from worker.engine.approximations.word_table import leave_extremes, look_up_plainly, put_back

BLOCK_SIZES = (64, 32, 16)
"""Values of an embedding row that share an int4 scale: the largest that divides the row is taken."""
MATRIX_BLOCK = 32
"""Values of a matrix, along its inputs, that share an int4 scale."""
INTEGER_PRODUCTS: tuple[Precision, ...] = ("int8", "w4a8")
"""The precisions whose products are of int8, with activations quantized as they come."""
INT8_PRODUCTS = 4  # MatMulNBits' accuracy_level: activations to int8, which is the fast one on processors
Feed = Mapping[str, NDArray[Any]]


class Quantization(Approximation[Quantize]):
    name = "quantize"
    step = Quantize
    changes_size = True
    changes_speed = True

    def write(
        self,
        source: Path,
        target: Path,
        step: Quantize,
        *,
        layers: Sequence[int] | None = None,
        calibration: Iterable[Feed] = (),
    ) -> None:
        """Write the quantized form of the ONNX file `source`.

        `layers` are the dense model's numbers of the graph's layers, by which `step.matrices` calls them
        (None: the same). Matrices outside the layers are int8 where `step.weights` has 4 bits. int8 weights
        are signed, 7 of the bits are used, one scale a column if `step.per_channel`; activations are
        quantized when they are known, one scale a tensor, or, with `step.calibration`, by the range that they
        have in the graph on the inputs `calibration`. Raises ValueError when rows of embeddings cannot be cut
        into blocks for int4 or are a language model's head too, or there are no inputs to calibrate with.
        """
        # Only who quantizes needs them: the engine must import without ONNX Runtime.
        import onnx
        from onnxruntime.quantization.quant_utils import (
            TENSOR_NAME_QUANT_SUFFIX,
            add_pre_process_metadata,
        )

        from worker.engine.export.graph import WORDS
        from worker.engine.export.matrices import products, split_attention, store_in_half
        from worker.engine.export.onnx_file import load_around, save_graph

        graph, words = load_around(source, WORDS)
        if words is not None and (_head_reads(graph, WORDS) or step.embeddings not in ("int8", "int4")):
            graph, words = onnx.load(source), None
        if words is not None:
            leave_extremes(graph, WORDS, words)
        forms = _forms(graph, step, layers)
        plain = {name for name, form in forms.items() if form not in INTEGER_PRODUCTS}
        split_attention(graph, {*plain, *(forms if step.calibration else ())})
        forms = _forms(graph, step, layers)
        by_form = {
            form: [name for name, each in forms.items() if each == form] for form in set(forms.values())
        }
        if step.embeddings == "int4":
            graph = _with_int4_words(graph)
        tied = with_int8_table(graph, WORDS) if step.embeddings == "int8" else []
        if "int4" in by_form:
            graph = _with_int4_products(graph, by_form["int4"])
        weights = products(graph)
        in_steps = {f"{weights[name]}{TENSOR_NAME_QUANT_SUFFIX}" for name in by_form.get("w4a8", [])}
        # Shapes that an exporter noted for values which quantization replaces would contradict it.
        del graph.graph.value_info[:]
        # There is nothing to prepare: the graph is written in its final form.
        add_pre_process_metadata(graph)
        # The quantizers copy a graph that they are given, and load a file that they are named.
        save_graph(graph, target)
        del graph
        static = by_form.get("int8", []) if step.calibration else []
        integer = {name for form in INTEGER_PRODUCTS for name in by_form.get(form, [])}
        if integer or step.embeddings in ("int8", "int4"):
            _write_dynamic(target, step, integer - set(static), done=tied)
        if words is not None:
            size = block_size(words.shape[1]) if step.embeddings == "int4" else None
            put_back(target, WORDS, words, size)
        if static:
            _write_static(target, step, static, calibration)
        if step.embeddings == "int4":
            look_up_plainly(target, WORDS)
        if by_form.get("fp16") or step.embeddings == "fp16":
            graph = onnx.load(target)
            store_in_half(graph, _in_half(graph, step, by_form.get("fp16", [])))
            save_graph(graph, target)
        if in_steps:
            graph = onnx.load(target)
            store_in_steps(graph, in_steps)
            save_graph(graph, target)


def block_size(width: int) -> int | None:
    """The int4 block for embedding rows of `width` values, or None where none divides them."""
    return next((size for size in BLOCK_SIZES if width % size == 0), None)


def _forms(graph: Any, step: Quantize, layers: Sequence[int] | None) -> dict[str, Precision]:
    """The form of each product's weight, by the node's name."""
    from worker.engine.export.matrices import matrix_name, products

    elsewhere: Precision = "int8" if step.weights in ("int4", "w4a8") else step.weights
    forms: dict[str, Precision] = {}
    for node, weight in products(graph).items():
        name = matrix_name(weight, layers or range(len(graph.graph.node)))
        forms[node] = elsewhere if name is None else step.matrices.get(name, step.weights)
    return forms


def _with_int4_words(graph: Any) -> Any:
    """The graph with its word embedding table in int4: symmetric, a float scale a block of a row."""
    from worker.engine.export.graph import WORDS
    from worker.engine.export.matrices import word_gathers

    if _head_reads(graph, WORDS):
        raise ValueError("word embeddings that are the head's weights too are not quantized to int4")
    table = next(tensor for tensor in graph.graph.initializer if tensor.name == WORDS)
    size = block_size(table.dims[1])
    if size is None:
        raise ValueError(f"rows of {table.dims[1]} values cannot be cut into blocks of {BLOCK_SIZES[-1]}")
    return _in_blocks(graph, "Gather", word_gathers(graph), size, axis=1)


def _head_reads(graph: Any, words: str) -> bool:
    """Whether the table of embeddings is a language model's head too."""
    return any(node.op_type == "Transpose" and words in node.input for node in graph.graph.node)


def _with_int4_products(graph: Any, names: Collection[str]) -> Any:
    """The graph with the weights of those products in int4."""
    return _in_blocks(graph, "MatMul", names, MATRIX_BLOCK, axis=0, accuracy_level=INT8_PRODUCTS)


def _in_blocks(
    graph: Any, operator: str, names: Collection[str], size: int, *, axis: int, **options: Any
) -> Any:
    level = logging.root.level
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    logging.root.setLevel(level)  # the module sets it, and tells of every node
    config = DefaultWeightOnlyQuantConfig(
        block_size=size,
        is_symmetric=True,
        op_types_to_quantize=(operator,),
        quant_axes=((operator, axis),),
        bits=4,
        **options,
    )
    # What it is told to include comes on top of all nodes of these types.
    others = [node.name for node in graph.graph.node if node.name not in names]
    quantizer = MatMulNBitsQuantizer(graph, algo_config=config, nodes_to_exclude=others)
    with np.errstate(divide="ignore", invalid="ignore"):  # rows of zeros have a scale of zero
        quantizer.process()
    written = quantizer.model.model
    _drop_repeats(written)
    return written


def _drop_repeats(graph: Any) -> None:
    """Of weights that several layers share the quantizer writes a copy for each."""
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    if len(tensors) < len(graph.graph.initializer):
        kept = list(tensors.values())
        del graph.graph.initializer[:]
        graph.graph.initializer.extend(kept)


def _write_dynamic(path: Path, step: Quantize, products: Collection[str], *, done: Sequence[str]) -> None:
    """Quantize those products of the file at `path`, and its tables of embeddings, to int8.

    The nodes `done` stay as they are.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    excluded = [*_others(onnx.load(path), products, gathers=step.embeddings in ("int8", "int4")), *done]
    quantize_dynamic(path, path, nodes_to_exclude=excluded, extra_options=_float_type(), **_int8(step))


def _write_static(path: Path, step: Quantize, products: Collection[str], calibration: Iterable[Feed]) -> None:
    """Quantize those products of the file at `path` to int8, their inputs by the range that they have."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    taken = {
        given.name: [dim.dim_value for dim in given.type.tensor_type.shape.dim]
        for given in onnx.load(path).graph.input
    }
    quantize_static(
        path,
        path,
        _Feeds(calibration, taken),
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=sorted(products),
        activation_type=QuantType.QUInt8,
        # What follows a product reads floats: to quantize it as well would only cost.
        extra_options={**_float_type(), "OpTypesToExcludeOutputQuantization": ["MatMul"]},
        **_int8(step),
    )


def _int8(step: Quantize) -> dict[str, Any]:
    """What both quantizers are told of int8 weights."""
    from onnxruntime.quantization import QuantType

    return {
        "per_channel": step.per_channel,
        "weight_type": QuantType.QInt8,
        # Processors without VNNI instructions add pairs of 8-bit products in 16 bits, where the
        # eighth bit overflows: with 7 the file answers the same on every machine.
        "reduce_range": True,
    }


def _float_type() -> dict[str, Any]:
    from onnx import TensorProto

    return {"DefaultTensorType": TensorProto.FLOAT}


def _others(graph: Any, wanted: Collection[str], *, gathers: bool) -> list[str]:
    """The products that are not `wanted`, and all look-ups unless `gathers` are."""
    from worker.engine.export.matrices import products

    kept = [name for name in products(graph) if name not in wanted]
    looks = () if gathers else (node.name for node in graph.graph.node if node.op_type == "Gather")
    return [*kept, *looks]


def _in_half(graph: Any, step: Quantize, nodes: Collection[str]) -> set[str]:
    """The weights to keep as fp16."""
    from worker.engine.export.graph import WORDS
    from worker.engine.export.matrices import products

    weights = {weight for node, weight in products(graph).items() if node in nodes}
    return weights | ({WORDS} if step.embeddings == "fp16" else set())


class _Feeds:
    """Inputs as ONNX Runtime's calibrators ask for them: one at a time, then None; of each, what it takes.

    `taken`: the sizes of the graph's inputs by name, 0 where they are free. Caches are empty.
    """

    def __init__(self, feeds: Iterable[Feed], taken: Mapping[str, Sequence[int]]) -> None:
        def complete(feed: Feed) -> Feed:
            caches = {
                name: np.zeros((len(feed["input_ids"]), *sizes[1:]), dtype=np.float32)
                for name, sizes in taken.items()
                if name.startswith("past_key_values.")
            }
            return {name: values for name, values in feed.items() if name in taken} | caches

        self._feeds: Iterator[Feed] = map(complete, feeds)
        first = next(self._feeds, None)
        if first is None:
            raise ValueError("static quantization needs inputs to calibrate with")
        self._first: Feed | None = first

    def get_next(self) -> Feed | None:
        """The next inputs."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return next(self._feeds, None)
