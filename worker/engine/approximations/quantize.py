"""Dynamic int8 of an exported graph, with int4 word embeddings on request, by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.spec import Quantize
from worker.engine.approximations.base import Approximation

BLOCK_SIZES = (64, 32, 16)
"""Values of an embedding row that share an int4 scale: the largest that divides the row is taken."""


class Quantization(Approximation[Quantize]):
    name = "quantize"
    step = Quantize
    changes_size = True
    changes_speed = True
    runtimes = ("onnxruntime",)

    def write(self, source: Path, target: Path, step: Quantize) -> None:
        """Write the quantized form of the ONNX file `source`: matrix products, attention, embeddings.

        Weights become signed 8 bit, of which 7 are used, one scale a column if `step.per_channel`;
        activations are quantized when they are known, one scale a tensor. Word embeddings become what
        `step.embeddings` says. Raises ValueError when their rows cannot be cut into blocks for int4.
        """
        # Only who quantizes needs them: the engine must import without ONNX Runtime.
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata

        graph = onnx.load(source)
        if step.embeddings == "int4":
            graph = _with_int4_words(graph)
        # Shapes that an exporter noted for values which quantization replaces would contradict it.
        del graph.graph.value_info[:]
        # There is nothing to prepare: the graph is written in its final form.
        add_pre_process_metadata(graph)
        quantize_dynamic(
            graph,
            target,
            per_channel=step.per_channel,
            weight_type=QuantType.QInt8,
            # Processors without VNNI instructions add pairs of 8-bit products in 16 bits, where the
            # eighth bit overflows: with 7 the file answers the same on every machine.
            reduce_range=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def block_size(width: int) -> int | None:
    """The int4 block for embedding rows of `width` values, or None where none divides them."""
    return next((size for size in BLOCK_SIZES if width % size == 0), None)


def _with_int4_words(graph: Any) -> Any:
    """The graph with its word embedding table in int4: symmetric, a float scale a block of a row."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    from worker.engine.export.graph import WORDS

    table = next(tensor for tensor in graph.graph.initializer if tensor.name == WORDS)
    size = block_size(table.dims[1])
    if size is None:
        raise ValueError(f"rows of {table.dims[1]} values cannot be cut into blocks of {BLOCK_SIZES[-1]}")
    config = DefaultWeightOnlyQuantConfig(
        block_size=size,
        is_symmetric=True,
        op_types_to_quantize=("Gather",),
        quant_axes=(("Gather", 1),),
        bits=4,
    )
    names = [node.name for node in graph.graph.node if node.op_type == "Gather" and node.input[0] == WORDS]
    quantizer = MatMulNBitsQuantizer(graph, algo_config=config, nodes_to_include=names)
    with np.errstate(divide="ignore", invalid="ignore"):  # rows of zeros have a scale of zero
        quantizer.process()
    return quantizer.model.model
