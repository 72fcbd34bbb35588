"""The ONNX graph of a language model, with a cache of keys and values.

Names are those of optimum's exports, which onnxruntime-genai uses too: `input_ids` (batch, length),
`attention_mask` (batch, past + length) of 1 and 0, and for each attention block n, counted from 0,
`past_key_values.n.key` and `.value` (batch, heads, past, size) go in; `logits` (batch, length, words),
`present.n.key` and `present.n.value` (batch, heads, past + length, size) come out. Without a past its length
is 0. Positions count the ones of the mask, so that a batch may be padded on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from worker.engine.export import graph_sparse
from worker.engine.export.axforge_attention import AxforgeAttention, frequencies
from worker.engine.export.axforge_decoder import (
    AxforgeForCausalLM,
    AxforgeLMHead,
    AxforgeWords,
    CausalAttention,
    number_caches,
)
from worker.engine.export.graph import CONTRIB, WORDS, EncoderGraph
from worker.engine.export.modeling_axforge import AxforgeConfig, AxforgeLayer
from worker.engine.export.onnx_file import UnsavedGraph

LOWEST = float(np.finfo(np.float32).min)
TO_THE_END = np.iinfo(np.int64).max


def decoder_graph(model: AxforgeForCausalLM) -> UnsavedGraph:
    """The graph of one of the engine's own language models."""
    graph = DecoderGraph(model.config, "input_ids", cached=True)
    hidden = graph.words(model.embeddings)
    if model.position_embeddings is not None:
        table = graph.weight("embeddings.positions", model.position_embeddings.weight[model.offset :])
        hidden = graph.node("Add", [hidden, graph.node("Gather", [table, graph.positions()])])
    for number, layer in enumerate(cast(Sequence[AxforgeLayer], model.layers)):
        hidden = graph.layer(f"layer.{number}", layer, hidden, first_only=False)
    graph.head(model.lm_head, model.embeddings, graph.norm("final_norm", model.final_norm, hidden))
    logits = _float("logits", "batch", "length", model.config.vocab_size)
    return graph.model([*_tokens("input_ids"), *graph.past], [logits, *graph.present])


def decoder_layers_graph(layers: Sequence[AxforgeLayer], config: AxforgeConfig) -> UnsavedGraph:
    """Graph from float32 "hidden" (batch, length, width) and int64 "attention_mask" to "output", no cache."""
    graph = DecoderGraph(config, "hidden", cached=False)
    number_caches(layers)
    hidden = "hidden"
    for number, layer in enumerate(layers):
        hidden = graph.layer(f"layer.{number}", layer, hidden, first_only=False)
    graph.node("Identity", [hidden], output="output")
    shape = ("batch", "length", config.hidden_size)
    return graph.model([_float("hidden", *shape), _tokens("input_ids")[1]], [_float("output", *shape)])


class DecoderGraph(EncoderGraph):
    """Grows the graph of a decoder whose tokens are the input `given`; `past` and `present` are its cache."""

    def __init__(self, config: AxforgeConfig, given: str, *, cached: bool) -> None:
        super().__init__(config)
        self._given, self._cached = given, cached
        self.past: list[onnx.ValueInfoProto] = []
        self.present: list[onnx.ValueInfoProto] = []

    def words(self, module: AxforgeWords) -> str:
        hidden = self.node("Gather", [self.weight(WORDS, module.word_embeddings.weight), "input_ids"])
        if module.word_projection is None:
            return hidden
        weight = self.weight("embeddings.projection.weight", module.word_projection.weight.T)
        return self.node("MatMul", [hidden, weight])

    def head(self, module: AxforgeLMHead, words: AxforgeWords, hidden: str) -> str:
        """The logits. A tied head reads the table itself, which ONNX Runtime turns round when it loads it."""
        if module.out is not None:
            weight = self.weight("head.out.weight", module.out.weight.T)
            return self.node("MatMul", [hidden, weight], output="logits")
        if words.word_projection is not None:
            weight = self.weight("head.projection.weight", words.word_projection.weight)
            hidden = self.node("MatMul", [hidden, weight])
        return self.node("MatMul", [hidden, self.node("Transpose", [WORDS], perm=[1, 0])], output="logits")

    def norm(self, name: str, module: Any, hidden: str, residual: str | None = None) -> str:
        if not isinstance(module, nn.RMSNorm):
            return super().norm(name, module, hidden, residual)
        weight = self.weight(f"{name}.weight", module.weight)
        return self.node("SimplifiedLayerNormalization", [hidden, weight], axis=-1, epsilon=module.eps)

    def positions(self) -> str:
        """Of the tokens, (batch, length): how many real ones come before each."""

        def made() -> str:
            counted = self.node("CumSum", ["attention_mask", self.integers(1)])
            places = self.node("Max", [self.node("Sub", [counted, self.scalar(1)]), self.scalar(0)])
            first = self.node("Reshape", [self._past_length(), self.integers(1)])
            return self.node("Slice", [places, first, self.integers(TO_THE_END), self.integers(1)])

        return self.once("positions", made)

    def _attention(self, name: str, module: AxforgeAttention, hidden: str, rows: str) -> str:
        assert isinstance(module, CausalAttention)
        projected = self.linear(f"{name}.qkv", hidden, module.query, module.key, module.value)
        widths = [each.out_features for each in (module.query, module.key, module.value)]
        query, key, value = self.nodes("Split", [projected, self.integers(*widths)], ["", "", ""], axis=-1)
        query = self._placed(f"{name}.query_norm", module, module.query_norm, query, module.heads)
        key = self._placed(f"{name}.key_norm", module, module.key_norm, key, module.kv_heads)
        key, value = (
            self._remembered(module, kind, self._by_head(values, module.kv_heads, module.head_size))
            for kind, values in (("key", key), ("value", value))
        )
        if module.kv_index != list(range(module.heads)):
            index = self.integers(*module.kv_index)
            key, value = (self.node("Gather", [each, index], axis=1) for each in (key, value))
        return self.linear(f"{name}.output", self._seen(module, query, key, value), module.output)

    def _placed(self, name: str, module: CausalAttention, norm: Any, values: str, heads: int) -> str:
        """Queries or keys (batch, length, heads * size), normed by head, and turned, if they are."""
        if norm is not None:
            split = self.node("Reshape", [values, self.integers(0, 0, heads, module.head_size)])
            joined = self.integers(0, 0, heads * module.head_size)
            values = self.node("Reshape", [self.norm(name, norm, split), joined])
        if module.theta is None:
            return values
        inputs = [values, self.positions(), *self._turns(module.theta, module.head_size)]
        return self.node("RotaryEmbedding", inputs, domain=CONTRIB, num_heads=heads)

    def _turns(self, theta: float, size: int) -> tuple[str, str]:
        """Cosines and sines, (past + length, size / 2), by position."""

        def made(function: str) -> str:
            column = self.node("Unsqueeze", [self._range(self._total_length()), self.integers(1)])
            places = self.node("Cast", [column], to=TensorProto.FLOAT)
            turned_by = self.weight(f"relative.frequencies.{theta}", frequencies(theta, size))
            return self.node(function, [self.node("Mul", [places, turned_by])])

        cos, sin = (self.once(f"{name}.{theta}", partial(made, name)) for name in ("Cos", "Sin"))
        return cos, sin

    def _remembered(self, module: CausalAttention, kind: str, values: str) -> str:
        """Keys or values (batch, heads, past + length, size): of the cache, and behind them `values`."""
        if not self._cached:
            return values
        given, told = (f"{name}.{module.place}.{kind}" for name in ("past_key_values", "present"))
        shape = ("batch", module.kv_heads)
        self.past.append(_float(given, *shape, "past_length", module.head_size))
        self.present.append(_float(told, *shape, "total_length", module.head_size))
        return self.node("Concat", [given, values], axis=2, output=told)

    def _by_head(self, values: str, heads: int, size: int) -> str:
        """(batch, length, heads * size) to (batch, heads, length, size)."""
        split = self.node("Reshape", [values, self.integers(0, 0, heads, size)])
        return self.node("Transpose", [split], perm=[0, 2, 1, 3])

    def _seen(self, module: CausalAttention, query: str, key: str, value: str) -> str:
        """The context (batch, length, heads * size)."""
        bias = self._mask_of(module.window)
        if not module.sparse:
            return self.soft_context(module.heads, module.scale, [query, key, value], bias)
        joined = self.integers(0, 0, module.heads * module.head_size)
        key, value = (
            self.node("Reshape", [self.node("Transpose", [each], perm=[0, 2, 1, 3]), joined])
            for each in (key, value)
        )
        return graph_sparse.context(self, module, [query, key, value], bias)

    def soft_context(self, heads: int, scale: float, projected: Sequence[str], bias: str | None) -> str:
        """`bias` masks padding too; see `_mask_of`."""
        assert bias is not None
        inputs = [*projected, "", "", bias]
        return self.node("MultiHeadAttention", inputs, domain=CONTRIB, num_heads=heads, scale=scale)

    def masking(self, bias: str | None) -> str:
        assert bias is not None
        return bias

    def _mask_of(self, window: int | None) -> str:
        """To add to scores, (batch, 1, length, past + length), as `CausalStep.mask` has it."""

        def made() -> str:
            keys = self._range(self._total_length())
            queries = self.node("Add", [self._range(self._length()), self._past_length()])
            rows = self.node("Unsqueeze", [queries, self.integers(1)])
            away = self.node("Sub", [rows, self.node("Unsqueeze", [keys, self.integers(0)])])
            hidden = self.node("Less", [away, self.scalar(0)])
            if window is not None:
                hidden = self.node("Or", [hidden, self.node("Greater", [away, self.scalar(window)])])
            later = self.node(
                "Unsqueeze", [self.node("Cast", [hidden], to=TensorProto.FLOAT), self.integers(0, 1)]
            )
            lowest = self.node("Mul", [later, self.number(LOWEST)])
            # The smaller of both rather than the sum, which would be minus infinity.
            return self.node("Min", [lowest, self.additive_mask()])

        return self.once(f"mask.{window}", made)

    def _range(self, count: str) -> str:
        return self.once(
            f"range.{count}", lambda: self.node("Range", [self.scalar(0), count, self.scalar(1)])
        )

    def _length(self) -> str:
        return self.once("length", lambda: self._size_of(self._given))

    def _total_length(self) -> str:
        return self.once("total", lambda: self._size_of("attention_mask"))

    def _past_length(self) -> str:
        return self.once("past", lambda: self.node("Sub", [self._total_length(), self._length()]))

    def _size_of(self, value: str) -> str:
        return self.node("Squeeze", [self.node("Shape", [value], start=1, end=2)])


def _tokens(name: str) -> list[onnx.ValueInfoProto]:
    """The int64 inputs: tokens and the mask of all that there are."""
    lengths = {name: "length", "attention_mask": "total_length"}
    return [
        helper.make_tensor_value_info(each, TensorProto.INT64, ["batch", length])
        for each, length in lengths.items()
    ]


def _float(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
