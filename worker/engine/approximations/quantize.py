"""Dynamic int8 of an exported graph, by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from models.spec import Quantize
from worker.engine.approximations.base import Approximation


class Quantization(Approximation[Quantize]):
    name = "quantize"
    step = Quantize
    changes_size = True
    changes_speed = True
    runtimes = ("onnxruntime",)

    def write(self, source: Path, target: Path, step: Quantize) -> None:
        """Write the int8 form of the ONNX file `source`: matrix products, attention, embeddings.

        Weights become signed 8 bit, one scale a column if `step.per_channel`; activations are
        quantized when they are known, one scale a tensor.
        """
        # Only who quantizes needs them: the engine must import without ONNX Runtime.
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata

        graph = onnx.load(source)
        # Shapes that an exporter noted for values which quantization replaces would contradict it.
        del graph.graph.value_info[:]
        # There is nothing to prepare: the graph is written in its final form.
        add_pre_process_metadata(graph)
        quantize_dynamic(
            graph,
            target,
            per_channel=step.per_channel,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
