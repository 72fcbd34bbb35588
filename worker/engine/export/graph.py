"""The ONNX graph of an encoder, written node by node so that ONNX Runtime has nothing left to fuse.

Dense and approximated models go through the very same code. Two things make the graph faster than a
traced one without changing what it computes: query, key and value are one matrix product, and
the last layer works out only the first token where that is all that the head reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from worker.engine.export import graph_heads, graph_positions, graph_sparse
from worker.engine.export.axforge_attention import AxforgeAttention
from worker.engine.export.modeling_axforge import (
    AxforgeConfig,
    AxforgeEmbeddings,
    AxforgeEncoder,
    AxforgeLayer,
    AxforgePreNormLayer,
    LowRankLinear,
)
from worker.engine.export.onnx_file import UnsavedGraph

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
    "silu": ("QuickGelu", {"domain": CONTRIB, "alpha": 1.0}),
    "tanh": ("Tanh", {}),
}
"""config.hidden_act: its ONNX operator and attributes."""


def model_graph(model: AxforgeEncoder, inputs: Sequence[str]) -> UnsavedGraph:
    """The graph of one of the engine's own models; see `graph_heads` for its inputs and outputs.

    `inputs` holds input_ids and attention_mask, and token_type_ids if the tokenizer gives them.
    """
    graph = EncoderGraph(model.config, model.relative, token_types="token_type_ids" in inputs)
    given = graph_heads.graph_inputs(model, inputs)
    if graph_heads.head_kind(model) == "choice":
        graph_heads.flatten_choices(graph, inputs)
    hidden = graph.embeddings(model.embeddings)
    if model.projection is not None:
        hidden = graph.linear("projection", hidden, model.projection)
    layers = cast(Sequence[AxforgeLayer], model.layers)
    first_only = graph_heads.reads_first_token_only(model)
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        hidden = graph.layer(f"layer.{number}", layer, hidden, first_only=first_only and last)
    if model.final_norm is not None:
        hidden = graph.norm("final_norm", model.final_norm, hidden)
    return graph.model(given, graph_heads.add_head(graph, model, hidden))


def layers_graph(
    layers: Sequence[AxforgeLayer], config: AxforgeConfig, relative: nn.Module | None, *, first_only: bool
) -> UnsavedGraph:
    """Graph from float32 "hidden" (batch, length, width) and int64 "attention_mask" to "output".

    `relative` is the layers' common position module, if they have one.
    """
    graph = EncoderGraph(config, relative)
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

    def __init__(
        self, config: AxforgeConfig, relative: nn.Module | None = None, *, token_types: bool = False
    ) -> None:
        self.config, self.relative, self.token_types = config, relative, token_types
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, NDArray[Any]] = {}
        self._shared: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        """What nodes to come read in the place of a value."""

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> UnsavedGraph:
        """The graph as grown so far."""
        graph = helper.make_graph(self._nodes, "axforge", inputs, outputs)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="axforge")
        return UnsavedGraph(model, self._weights)

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
        read = [self.renamed.get(value, value) for value in inputs]
        self._nodes.append(helper.make_node(operator, read, named, name=name, domain=domain, **attributes))
        return named

    def weight(self, name: str, value: Tensor | NDArray[Any]) -> str:
        if isinstance(value, Tensor):
            value = (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
        array = np.ascontiguousarray(value) if value.ndim else value
        self._weights[name] = array
        return name

    def joined(self, name: str, *modules: nn.Linear) -> str:
        """The weights of `modules`, their outputs side by side: (inputs, outputs).

        Layers that share their weights share them in the file too.
        """
        source = ".".join(str(id(module.weight)) for module in modules)
        if source not in self._sources:
            self._sources[source] = self.weight(name, torch.cat([module.weight for module in modules]).T)
        return self._sources[source]

    def integers(self, *values: int) -> str:
        name = "int." + ".".join(map(str, values))
        return self.weight(name, np.array(values, dtype=np.int64))

    def scalar(self, value: int) -> str:
        return self.weight(f"scalar.{value}", np.array(value, dtype=np.int64))

    def number(self, value: float) -> str:
        return self.weight(f"float.{value!r}", np.array(value, dtype=np.float32))

    def linear(self, name: str, hidden: str, *modules: Any) -> str:
        """One matrix product for all `modules`, their outputs side by side."""
        product = self.node("MatMul", [hidden, self.joined(f"{name}.weight", *modules)])
        if modules[0].bias is None:
            return product
        bias = self.weight(f"{name}.bias", torch.cat([module.bias for module in modules]))
        return self.node("Add", [product, bias])

    def product(self, name: str, hidden: str, module: Any) -> str:
        """The product with a whole or a low-rank matrix."""
        if isinstance(module, LowRankLinear):
            inner = self.node("MatMul", [hidden, self.joined(f"{name}.inner.weight", module.inner)])
            return self.linear(f"{name}.outer", inner, module.outer)
        return self.linear(name, hidden, module)

    def norm(self, name: str, module: Any, hidden: str, residual: str | None = None) -> str:
        """LayerNorm(hidden + residual)."""
        affine = [self.weight(f"{name}.weight", module.weight)]
        if module.bias is not None:
            affine.append(self.weight(f"{name}.bias", module.bias))
        if residual is None:
            return self.node("LayerNormalization", [hidden, *affine], axis=-1, epsilon=module.eps)
        inputs = [hidden, residual, *affine]
        return self.node("SkipLayerNormalization", inputs, domain=CONTRIB, epsilon=module.eps)

    def activation(self, name: str, hidden: str) -> str:
        operator, attributes = ACTIVATIONS[name]
        return self.node(operator, [hidden], **attributes)

    def embeddings(self, module: AxforgeEmbeddings) -> str:
        words = self.weight(WORDS, module.word_embeddings.weight)
        hidden = self.node("Gather", [words, "input_ids"])
        if module.word_projection is not None:
            projection = self.weight("embeddings.projection.weight", module.word_projection.weight.T)
            hidden = self.node("MatMul", [hidden, projection])
        first_type, has_types = None, hasattr(module, "token_type_embeddings")
        if has_types and self.token_types:
            types = self.weight("embeddings.token_types", module.token_type_embeddings.weight)
            hidden = self.node("Add", [hidden, self.node("Gather", [types, "token_type_ids"])])
        elif has_types:
            first_type = module.token_type_embeddings.weight[0]
        if hasattr(module, "position_embeddings"):
            positions = module.position_embeddings.weight
            positions = positions if first_type is None else positions + first_type
            table = self.weight("embeddings.positions", positions)
            hidden = self.node("Add", [hidden, self.node("Gather", [table, self._positions(module)])])
        elif first_type is not None:
            hidden = self.node("Add", [hidden, self.weight("embeddings.token_type", first_type)])
        return hidden if module.LayerNorm is None else self.norm("embeddings.norm", module.LayerNorm, hidden)

    def layer(self, name: str, layer: AxforgeLayer, hidden: str, *, first_only: bool) -> str:
        """The layer's output, of the first token only (batch, 1, width) if `first_only`."""
        if isinstance(layer, AxforgePreNormLayer):
            return self._pre_norm_layer(name, layer, hidden, first_only=first_only)
        rows = self.first_row(hidden) if first_only else hidden
        block = None
        if layer.attention is not None:
            block = self._attention(f"{name}.attention", layer.attention, hidden, rows)
        rows = (
            self.norm(f"{name}.attention_norm", layer.attention_norm, rows)
            if block is None
            else self.norm(f"{name}.attention_norm", layer.attention_norm, block, rows)
        )
        if layer.ffn_down is None:
            return self.norm(f"{name}.ffn_norm", layer.ffn_norm, rows)
        return self.norm(f"{name}.ffn_norm", layer.ffn_norm, self._ffn(name, layer, rows), rows)

    def _pre_norm_layer(self, name: str, layer: AxforgeLayer, hidden: str, *, first_only: bool) -> str:
        rows = self.first_row(hidden) if first_only else hidden
        if layer.attention is not None:
            given = hidden
            if layer.attention_norm is not None:
                given = self.norm(f"{name}.attention_norm", layer.attention_norm, hidden)
            asking = self.first_row(given) if first_only else given
            block = self._attention(f"{name}.attention", layer.attention, given, asking)
            rows = self.node("Add", [rows, block])
        if layer.ffn_norm is not None:
            given = self.norm(f"{name}.ffn_norm", layer.ffn_norm, rows)
            rows = self.node("Add", [rows, self._ffn(name, layer, given)])
        return rows

    def _ffn(self, name: str, layer: AxforgeLayer, hidden: str) -> str:
        inner = self._channels(f"{name}.ffn_up", layer, hidden)
        return self.product(f"{name}.ffn_down", inner, layer.ffn_down)

    def _channels(self, name: str, layer: AxforgeLayer, hidden: str) -> str:
        """What the FFN makes of its channels; gate and up are one matrix product where they are whole."""
        act = self.config.hidden_act
        if layer.ffn_gate is None:
            return self.activation(act, self.product(name, hidden, layer.ffn_up))
        if isinstance(layer.ffn_gate, LowRankLinear):
            gate = self.product(f"{name}.gate", hidden, layer.ffn_gate)
            up = self.product(name, hidden, layer.ffn_up)
        else:
            both = self.linear(name, hidden, layer.ffn_gate, layer.ffn_up)
            gate, up = self.nodes("Split", [both], ["", ""], axis=-1, num_outputs=2)
        return self.node("Mul", [self.activation(act, gate), up])

    def first_row(self, values: str) -> str:
        """Of (batch, length, ...): (batch, 1, ...)."""
        return self.node("Slice", [values, self.integers(0), self.integers(1), self.integers(1)])

    def _positions(self, module: AxforgeEmbeddings) -> str:
        if module.offset is None:
            return self.counted()
        pad = self.integers(module.offset)
        padded = self.node("Equal", ["input_ids", pad])
        real = self.node("Cast", [self.node("Not", [padded])], to=TensorProto.INT64)
        counted = self.node("CumSum", [real, self.integers(1)])
        return self.node("Add", [self.node("Mul", [counted, real]), pad])

    def counted(self) -> str:
        """0 to length - 1, (length,)."""

        def made() -> str:
            length = self.node("Squeeze", [self.node("Shape", ["attention_mask"], start=1, end=2)])
            return self.node("Range", [self.scalar(0), length, self.scalar(1)])

        return self.once("counted", made)

    def once(self, name: str, made: Callable[[], str]) -> str:
        """A value that several layers use, made for the first of them."""
        if name not in self._shared:
            self._shared[name] = made()
        return self._shared[name]

    def _attention(self, name: str, module: AxforgeAttention, hidden: str, rows: str) -> str:
        """The block's contribution, before residual path and norm. Queries come from `rows`."""
        projections = (module.query, module.key, module.value)
        plain = type(module) is AxforgeAttention and module.window is None and module.query.bias is not None
        if plain and hidden == rows and not module.sparse:
            inputs = [
                hidden,
                self.joined(f"{name}.qkv.weight", *projections),
                self.weight(f"{name}.qkv.bias", torch.cat([one.bias for one in projections])),
                self._mask(),
            ]
            context = self.node("Attention", inputs, domain=CONTRIB, num_heads=module.heads)
        else:
            query, key, value = self._projected(name, projections, hidden, rows)
            query, key, bias = graph_positions.placed(self, name, module, query, key, first=hidden != rows)
            context = self._context(module, [query, key, value], bias)
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

    def _context(self, module: AxforgeAttention, projected: list[str], bias: str | None) -> str:
        """`bias` is added to the scores: (batch or 1, heads or 1, queries, keys)."""
        if module.sparse:
            return graph_sparse.context(self, module, projected, bias)
        return self.soft_context(module.heads, module.scale, projected, bias)

    def soft_context(self, heads: int, scale: float, projected: Sequence[str], bias: str | None) -> str:
        """Of queries, keys and values (batch, tokens, heads * size), by ONNX Runtime's fused operator."""
        inputs = [*projected, "", self._mask(), *([] if bias is None else [bias])]
        return self.node("MultiHeadAttention", inputs, domain=CONTRIB, num_heads=heads, scale=scale)

    def _mask(self) -> str:
        return self.once("mask", lambda: self.node("Cast", ["attention_mask"], to=TensorProto.INT32))

    def masking(self, bias: str | None) -> str:
        """All that is added to scores: `bias`, and the lowest number where there is padding."""
        mask = self.additive_mask()
        return mask if bias is None else self.node("Add", [bias, mask])

    def additive_mask(self) -> str:
        """To add to scores, (batch, 1, 1, length): the lowest number where there is padding."""

        def made() -> str:
            mask = self.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
            gone = self.node("Sub", [self.number(1.0), mask])
            lowest = self.node("Mul", [gone, self.number(float(np.finfo(np.float32).min))])
            return self.node("Unsqueeze", [lowest, self.integers(1, 2)])

        return self.once("additive_mask", made)


def _value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
