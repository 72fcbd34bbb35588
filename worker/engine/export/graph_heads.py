"""The heads of the ONNX graph: what comes after the encoder's layers, and how the outputs are called.

Names and shapes of inputs and outputs are those that transformers' models have, and with them the
exporters and runners that others wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from worker.engine.anatomy.heads import READS_FIRST_TOKEN, HeadKind
from worker.engine.export.axforge_heads import (
    AxforgeForMultipleChoice,
    AxforgeForQuestionAnswering,
    AxforgeForTokenClassification,
)
from worker.engine.export.modeling_axforge import AxforgeEncoder, AxforgeHead

if TYPE_CHECKING:
    from worker.engine.export.graph import EncoderGraph

Values = list[onnx.ValueInfoProto]
CHOICES = "choices.shape"
"""Name of the value that holds (batch, choices)."""


def head_kind(model: AxforgeEncoder) -> HeadKind:
    """The kind of head that one of the engine's own models has."""
    kinds: dict[type[AxforgeEncoder], HeadKind] = {
        AxforgeForTokenClassification: "token",
        AxforgeForQuestionAnswering: "span",
        AxforgeForMultipleChoice: "choice",
    }
    return kinds.get(type(model), "sequence")


def reads_first_token_only(model: AxforgeEncoder) -> bool:
    """Whether the last layer's other tokens need not be worked out."""
    return head_kind(model) in READS_FIRST_TOKEN and model.config.pooling == "first"


def add_head(graph: EncoderGraph, model: AxforgeEncoder, hidden: str) -> Values:
    """Put the model's head on `hidden`; answers the graph's float32 outputs.

    "logits" (batch, labels), (batch, length, labels) or (batch, choices); of a span "start_logits" and
    "end_logits" (batch, length).
    """
    labels, head = model.config.num_labels, model.head
    match head_kind(model):
        case "token":
            _answers(graph, head, hidden, output="logits")
            return [_output("logits", "batch", "length", labels)]
        case "span":
            scores = _answers(graph, head, hidden)
            names = ["start_logits", "end_logits"]
            for place, name in enumerate(names):
                graph.node("Gather", [scores, graph.scalar(place)], axis=2, output=name)
            return [_output(name, "batch", "length") for name in names]
        case "choice":
            scores = _answers(graph, head, _pooled(graph, hidden))
            graph.node("Reshape", [scores, CHOICES], output="logits")
            return [_output("logits", "batch", "choices")]
        case _:
            _answers(graph, head, _pooled(graph, hidden), output="logits")
            return [_output("logits", "batch", labels)]


def graph_inputs(model: AxforgeEncoder, names: Sequence[str]) -> Values:
    """The graph's int64 inputs: (batch, length), or (batch, choices, length)."""
    shape = ["batch", "choices", "length"] if head_kind(model) == "choice" else ["batch", "length"]
    return [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names]


def flatten_choices(graph: EncoderGraph, names: Sequence[str]) -> None:
    """Let all nodes to come read the inputs `names` as (batch * choices, length)."""
    graph.node("Shape", ["input_ids"], end=2, output=CHOICES)
    length = graph.node("Shape", ["input_ids"], start=2, end=3)
    flat = graph.node("Concat", [graph.integers(-1), length], axis=0)
    graph.renamed = {name: graph.node("Reshape", [name, flat]) for name in names}


def _pooled(graph: EncoderGraph, hidden: str) -> str:
    """(batch, length, width) to (batch, width), as `modeling_axforge.pooled` does."""
    if graph.config.pooling == "first":
        return graph.node("Gather", [hidden, graph.scalar(0)], axis=1)
    if graph.config.pooling == "last":
        places = graph.node("Mul", ["attention_mask", graph.counted()])
        last = graph.node("ArgMax", [places], axis=1, keepdims=1)
        return graph.node("GatherND", [hidden, last], batch_dims=1)
    real = graph.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
    kept = graph.node("Mul", [hidden, graph.node("Unsqueeze", [real, graph.integers(2)])])
    total = graph.node("ReduceSum", [kept, graph.integers(1)], keepdims=0)
    return graph.node("Div", [total, graph.node("ReduceSum", [real, graph.integers(1)], keepdims=1)])


def _answers(graph: EncoderGraph, module: AxforgeHead, given: str, output: str = "") -> str:
    """(..., width) to (..., outputs), as `AxforgeHead` does."""
    if module.dense is not None:
        given = graph.activation(graph.config.head_act, graph.linear("head.dense", given, module.dense))
    if module.norm is not None:
        given = graph.norm("head.norm", module.norm, given)
    weight = graph.weight("head.out.weight", module.out.weight.T)
    bias = graph.weight("head.out.bias", module.out.bias)
    return graph.node("Add", [graph.node("MatMul", [given, weight]), bias], output=output)


def _output(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
