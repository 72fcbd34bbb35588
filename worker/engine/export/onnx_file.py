"""Writing an ONNX file without a second copy of its weights in memory.

`onnx.save` puts the whole file together before it writes it. Fields of a protobuf message may stand in any
order, so the graph is written here without its weights, and then they one after the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import onnx

MessageT = TypeVar("MessageT", onnx.ModelProto, onnx.GraphProto)
LENGTH_DELIMITED = 2  # wire type of bytes and messages
GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write what `onnx.load` reads as `model`; takes as much more memory as its largest weight."""
    graph = _without(model.graph, "initializer").SerializeToString()
    heads = [_head(INITIALIZER, tensor.ByteSize()) for tensor in model.graph.initializer]
    weights = sum(len(head) for head in heads) + sum(tensor.ByteSize() for tensor in model.graph.initializer)
    with path.open("wb") as file:
        file.write(_without(model, "graph").SerializeToString())
        file.write(_head(GRAPH, len(graph) + weights))
        file.write(graph)
        for head, tensor in zip(heads, model.graph.initializer, strict=True):
            file.write(head)
            file.write(tensor.SerializeToString())


def _without(message: MessageT, left_out: str) -> MessageT:
    """A copy of all fields but one."""
    copied = type(message)()
    for field, value in message.ListFields():
        if field.name == left_out:
            continue
        _put(copied, field.name, value)
    return copied


def _put(message: Any, name: str, value: Any) -> None:
    if hasattr(value, "MergeFrom") and not hasattr(value, "append"):
        getattr(message, name).CopyFrom(value)
    elif hasattr(value, "append"):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


def _head(number: int, size: int) -> bytes:
    """What stands before `size` bytes of a field (protobuf's encoding: tag and length as varints)."""
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(size)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first, all but the last marked."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
