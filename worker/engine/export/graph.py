"""The ONNX graph of an encoder, written node by node so that ONNX Runtime has nothing left to fuse.

Dense and approximated models go through the very same code. Two things make the graph faster than a
traced one without changing what it computes: query, key and value are one matrix product, and
the last layer works out only the first token, which is all that the classifier reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from worker.engine.export.modeling_axforge import (
    AxforgeAttention,
    AxforgeConfig,
    AxforgeEmbeddings,
    AxforgeForSequenceClassification,
    AxforgeHead,
    AxforgeLayer,
    LowRankLinear,
)

OPSET = 21
IR_VERSION = 10
CONTRIB = "com.microsoft"
WORDS = "embeddings.words"
"""Name of the word embedding table in the graph."""
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
}
"""config.hidden_act: its ONNX operator and attributes."""


def classifier_graph(model: AxforgeForSequenceClassification, inputs: Sequence[str]) -> onnx.ModelProto:
    """Graph from int64 (batch, length) `inputs` to float32 "logits" (batch, labels).

    `inputs` holds input_ids and attention_mask, and token_type_ids if the tokenizer gives them.
    """
    graph = EncoderGraph(model.config)
    hidden = graph.embeddings(model.embeddings, with_token_types="token_type_ids" in inputs)
    layers = cast(Sequence[AxforgeLayer], model.layers)
    for number, layer in enumerate(layers):
        hidden = graph.layer(f"layer.{number}", layer, hidden, first_only=number == len(layers) - 1)
    graph.head(model.head, hidden)
    given = [_value(name, TensorProto.INT64, ["batch", "length"]) for name in inputs]
    return graph.model(given, [_value("logits", TensorProto.FLOAT, ["batch", model.config.num_labels])])


def layers_graph(
    layers: Sequence[AxforgeLayer], config: AxforgeConfig, *, first_only: bool
) -> onnx.ModelProto:
    """Graph from float32 "hidden" (batch, length, width) and int64 "attention_mask" to "output"."""
    graph = EncoderGraph(config)
    hidden = "hidden"
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        hidden = graph.layer(f"layer.{number}", layer, hidden, first_only=first_only and last)
    graph.node("Identity", [hidden], output="output")
    shape: list[str | int] = ["batch", "length", config.hidden_size]
    given = [
        _value("hidden", TensorProto.FLOAT, shape),
        _value("attention_mask", TensorProto.INT64, ["batch", "length"]),
    ]
    return graph.model(given, [_value("output", TensorProto.FLOAT, ["batch", "tokens", config.hidden_size])])


class EncoderGraph:
    """Grows a graph; every method takes and returns names of values."""

    def __init__(self, config: AxforgeConfig) -> None:
        self.config = config
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._shared: dict[str, str] = {}

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "axforge", inputs, outputs, list(self._weights.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="axforge")

    def node(
        self, operator: str, inputs: Sequence[str], *, domain: str = "", output: str = "", **attributes: Any
    ) -> str:
        return self.nodes(operator, inputs, [output], domain=domain, **attributes)[0]

    def nodes(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """A node with several outputs; those named "" get a name."""
        name = f"{operator}.{len(self._nodes)}"
        named = [output or f"{name}.{at}" for at, output in enumerate(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, named, name=name, domain=domain, **attributes))
        return named

    def weight(self, name: str, value: Tensor | NDArray[Any]) -> str:
        if isinstance(value, Tensor):
            value = value.detach().float().cpu().numpy()
        array = np.ascontiguousarray(value) if value.ndim else value
        self._weights[name] = numpy_helper.from_array(array, name)
        return name

    def integers(self, *values: int) -> str:
        name = "int." + ".".join(map(str, values))
        return self.weight(name, np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        return self.weight(f"float.{value!r}", np.array(value, dtype=np.float32))

    def linear(self, name: str, hidden: str, *modules: nn.Linear) -> str:
        """One matrix product for all `modules`, their outputs side by side."""
        weight = self.weight(f"{name}.weight", torch.cat([module.weight for module in modules]).T)
        bias = self.weight(f"{name}.bias", torch.cat([module.bias for module in modules]))
        return self.node("Add", [self.node("MatMul", [hidden, weight]), bias])

    def product(self, name: str, hidden: str, module: nn.Module) -> str:
        """The product with a whole or a low-rank matrix."""
        if isinstance(module, LowRankLinear):
            weight = self.weight(f"{name}.inner.weight", module.inner.weight.T)
            return self.linear(f"{name}.outer", self.node("MatMul", [hidden, weight]), module.outer)
        return self.linear(name, hidden, cast(nn.Linear, module))

    def norm(self, name: str, module: nn.LayerNorm, hidden: str, residual: str | None = None) -> str:
        """LayerNorm(hidden + residual)."""
        weight, bias = self.weight(f"{name}.weight", module.weight), self.weight(f"{name}.bias", module.bias)
        if residual is None:
            return self.node("LayerNormalization", [hidden, weight, bias], axis=-1, epsilon=module.eps)
        inputs = [hidden, residual, weight, bias]
        return self.node("SkipLayerNormalization", inputs, domain=CONTRIB, epsilon=module.eps)

    def activation(self, name: str, hidden: str) -> str:
        operator, attributes = ACTIVATIONS[name]
        return self.node(operator, [hidden], **attributes)

    def embeddings(self, module: AxforgeEmbeddings, *, with_token_types: bool) -> str:
        positions = module.position_embeddings.weight
        words = self.weight(WORDS, module.word_embeddings.weight)
        hidden = self.node("Gather", [words, "input_ids"])
        if module.word_projection is not None:
            projection = self.weight("embeddings.projection.weight", module.word_projection.weight.T)
            hidden = self.node("MatMul", [hidden, projection])
        if with_token_types:
            types = self.weight("embeddings.token_types", module.token_type_embeddings.weight)
            hidden = self.node("Add", [hidden, self.node("Gather", [types, "token_type_ids"])])
        elif hasattr(module, "token_type_embeddings"):
            positions = positions + module.token_type_embeddings.weight[0]
        table = self.weight("embeddings.positions", positions)
        hidden = self.node("Add", [hidden, self.node("Gather", [table, self._positions(module)])])
        return self.norm("embeddings.norm", module.LayerNorm, hidden)

    def layer(self, name: str, layer: AxforgeLayer, hidden: str, *, first_only: bool) -> str:
        """The layer's output, of the first token only (batch, 1, width) if `first_only`."""
        rows = hidden
        if first_only:
            rows = self.node("Slice", [hidden, self.integers(0), self.integers(1), self.integers(1)])
        block = None
        if layer.attention is not None:
            block = self._attention(f"{name}.attention", layer.attention, hidden, rows)
        rows = (
            self.norm(f"{name}.attention_norm", layer.attention_norm, rows)
            if block is None
            else self.norm(f"{name}.attention_norm", layer.attention_norm, block, rows)
        )
        if layer.ffn_up is None or layer.ffn_down is None:
            return self.norm(f"{name}.ffn_norm", layer.ffn_norm, rows)
        inner = self.product(f"{name}.ffn_up", rows, layer.ffn_up)
        inner = self.activation(self.config.hidden_act, inner)
        inner = self.product(f"{name}.ffn_down", inner, layer.ffn_down)
        return self.norm(f"{name}.ffn_norm", layer.ffn_norm, inner, rows)

    def head(self, module: AxforgeHead, hidden: str) -> None:
        first = self.node("Gather", [hidden, self.weight("first", np.array(0, dtype=np.int64))], axis=1)
        dense = self.activation(self.config.head_act, self.linear("head.dense", first, module.dense))
        weight = self.weight("head.out.weight", module.out.weight.T)
        bias = self.weight("head.out.bias", module.out.bias)
        self.node("Add", [self.node("MatMul", [dense, weight]), bias], output="logits")

    def _positions(self, module: AxforgeEmbeddings) -> str:
        if module.offset is None:
            length = self.node("Shape", ["input_ids"], start=1, end=2)
            scalar = self.node("Squeeze", [length])
            zero, one = (self.weight(f"scalar.{value}", np.array(value, dtype=np.int64)) for value in (0, 1))
            return self.node("Range", [zero, scalar, one])
        pad = self.integers(module.offset)
        padded = self.node("Equal", ["input_ids", pad])
        real = self.node("Cast", [self.node("Not", [padded])], to=TensorProto.INT64)
        counted = self.node("CumSum", [real, self.integers(1)])
        return self.node("Add", [self.node("Mul", [counted, real]), pad])

    def _attention(self, name: str, module: AxforgeAttention, hidden: str, rows: str) -> str:
        """The block's contribution, before residual path and norm. Queries come from `rows`."""
        projections = (module.query, module.key, module.value)
        if hidden == rows and module.hard_top_k is None:
            weight = torch.cat([one.weight for one in projections]).T
            bias = torch.cat([one.bias for one in projections])
            inputs = [
                hidden,
                self.weight(f"{name}.qkv.weight", weight),
                self.weight(f"{name}.qkv.bias", bias),
                self._mask(),
            ]
            context = self.node("Attention", inputs, domain=CONTRIB, num_heads=module.heads)
        else:
            context = self._context(name, module, self._projected(name, projections, hidden, rows))
        return self.linear(f"{name}.output", context, module.output)

    def _projected(
        self, name: str, projections: tuple[nn.Linear, nn.Linear, nn.Linear], hidden: str, rows: str
    ) -> list[str]:
        query, key, value = projections
        if hidden == rows:
            joined = self.linear(f"{name}.qkv", hidden, query, key, value)
            return self.nodes("Split", [joined], ["", "", ""], axis=-1, num_outputs=3)
        joined = self.linear(f"{name}.kv", hidden, key, value)
        parts = self.nodes("Split", [joined], ["", ""], axis=-1, num_outputs=2)
        return [self.linear(f"{name}.query", rows, query), *parts]

    def _context(self, name: str, module: AxforgeAttention, projected: list[str]) -> str:
        if module.hard_top_k is None:
            inputs = [*projected, "", self._mask()]
            return self.node("MultiHeadAttention", inputs, domain=CONTRIB, num_heads=module.heads)
        return self._hard_context(module, projected, module.hard_top_k)

    def _hard_context(self, module: AxforgeAttention, projected: list[str], top_k: int) -> str:
        """The same arithmetic as `modeling_axforge.hard_attention`."""
        split = self.integers(0, 0, module.heads, module.head_size)
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        query, key, value = (
            self.node("Transpose", [self.node("Reshape", [one, split])], perm=order)
            for one, order in zip(projected, orders, strict=True)
        )
        scores = self.node("MatMul", [query, key])
        scores = self.node("Mul", [scores, self.number(module.head_size**-0.5)])
        scores = self.node("Add", [scores, self._additive_mask()])
        probabilities = self.node("Softmax", [scores], axis=-1)
        padded = self.node("Pad", [probabilities, self.integers(0, 0, 0, 0, 0, 0, 0, top_k)])
        largest, _ = self.nodes("TopK", [padded, self.integers(top_k)], ["", ""], axis=-1)
        threshold = self.node("ReduceMin", [largest, self.integers(-1)], keepdims=1)
        kept = self.node("GreaterOrEqual", [probabilities, threshold])
        probabilities = self.node("Where", [kept, probabilities, self.number(0.0)])
        context = self.node("Transpose", [self.node("MatMul", [probabilities, value])], perm=[0, 2, 1, 3])
        return self.node("Reshape", [context, self.integers(0, 0, module.heads * module.head_size)])

    def _mask(self) -> str:
        if "mask" not in self._shared:
            self._shared["mask"] = self.node("Cast", ["attention_mask"], to=TensorProto.INT32)
        return self._shared["mask"]

    def _additive_mask(self) -> str:
        if "additive" not in self._shared:
            mask = self.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
            gone = self.node("Sub", [self.number(1.0), mask])
            lowest = self.node("Mul", [gone, self.number(float(np.finfo(np.float32).min))])
            self._shared["additive"] = self.node("Unsqueeze", [lowest, self.integers(1, 2)])
        return self._shared["additive"]


def _value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
