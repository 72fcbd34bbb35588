"""ONNX files without a second copy of their weights in memory.

`onnx.save` puts the whole file together before it writes it, and `onnx.load` has the file and what it has
read of it side by side. Fields of a protobuf message may stand in any order, so the graph is written here
without its weights, and then they one after the other; and when a file is read, a table may stay in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

MessageT = TypeVar("MessageT", onnx.ModelProto, onnx.GraphProto)
LENGTH_DELIMITED = 2  # wire type of bytes and messages
FIXED = {1: 8, 5: 4}  # wire types of as many bytes
GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
RAW = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


@dataclass(frozen=True)
class StoredTable:
    """An fp32 weight (rows, width) that is still in the file, `offset` bytes from its start."""

    path: Path
    offset: int
    shape: tuple[int, int]

    def pieces(self, rows: int) -> Iterator[NDArray[np.float32]]:
        """All rows in order, so many at a time."""
        width = self.shape[1]
        for first in range(0, self.shape[0], rows):
            count = min(rows, self.shape[0] - first) * width
            yield np.fromfile(self.path, "<f4", count, offset=self.offset + 4 * first * width).reshape(
                -1, width
            )


@dataclass(frozen=True)
class UnsavedGraph:
    """A model, and the weights that are to be in it: arrays, which no message has a copy of."""

    model: onnx.ModelProto
    weights: dict[str, NDArray[Any]]

    def save(self, path: Path) -> None:
        """Write what `onnx.load` reads as the model with its weights, which are used up. Takes no memory."""
        graph = self.model.graph.SerializeToString()
        heads = {name: _tensor_head(name, weight) for name, weight in self.weights.items()}
        size = len(graph) + sum(len(heads[name]) + weight.nbytes for name, weight in self.weights.items())
        with path.open("wb") as file:
            file.write(_without(self.model, "graph").SerializeToString())
            file.write(_head(GRAPH, size))
            file.write(graph)
            for name, head in heads.items():
                file.write(head)
                file.write(np.ascontiguousarray(self.weights.pop(name)).reshape(-1).view(np.uint8).data)


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


def load_around(path: Path, name: str) -> tuple[onnx.ModelProto, StoredTable | None]:
    """The model in a file without the values of one of its weights, and where these are.

    The weight keeps its name and has no rows. None, and the model is whole, where it is no fp32 table or is
    not in the file. Raises ValueError for a file that no ONNX model can be read from.
    """
    model, table = onnx.ModelProto(), None
    with path.open("rb") as file:
        for number, begin, content, end in _fields(file, 0, path.stat().st_size):
            if number != GRAPH:
                model.MergeFromString(_read(file, begin, end))
                continue
            for field, start, value, stop in _fields(file, content, end):
                found = _table(file, path, name, value, stop) if field == INITIALIZER else None
                part = _read(file, start, stop) if found is None else _empty(name, found.shape[1])
                table = found or table
                model.MergeFromString(_head(GRAPH, len(part)) + part)
    return model, table


def _empty(name: str, width: int) -> bytes:
    """The field of a graph that holds an fp32 table without rows."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=(0, width))
    content: bytes = tensor.SerializeToString()
    return _head(INITIALIZER, len(content)) + content


def _table(file: BinaryIO, path: Path, name: str, begin: int, end: int) -> StoredTable | None:
    """Where the values are of the tensor message between two places of the file, if it is this fp32 table."""
    tensor, values = onnx.TensorProto(), None
    rest = []
    for number, start, content, stop in _fields(file, begin, end):
        if number == RAW:
            values = content
        else:
            rest.append(_read(file, start, stop))
    tensor.ParseFromString(b"".join(rest))
    fits = tensor.name == name and tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    return (
        StoredTable(path, values, (tensor.dims[0], tensor.dims[1])) if fits and values is not None else None
    )


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the content, and end of each field of a message."""
    while begin < end:
        file.seek(begin)
        tag = _read_varint(file)
        content = file.tell()
        if tag & 7 == LENGTH_DELIMITED:
            size = _read_varint(file)
            content = file.tell()
        elif tag & 7 == 0:
            _read_varint(file)
            size = file.tell() - content
        elif tag & 7 in FIXED:
            size = FIXED[tag & 7]
        else:
            raise ValueError(f"no ONNX model: wire type {tag & 7} at byte {begin}")
        if content + size > end:
            raise ValueError(f"no ONNX model: the field at byte {begin} goes beyond its message")
        yield tag >> 3, begin, content, content + size
        begin = content + size


def _read(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)


def _read_varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        (byte,) = file.read(1) or b"\0"
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte <= 0x7F:
            return value


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


def _tensor_head(name: str, weight: NDArray[Any]) -> bytes:
    """A graph's field with a weight, up to where the values begin."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(weight.dtype)
    about: bytes = onnx.TensorProto(name=name, data_type=kind, dims=weight.shape).SerializeToString()
    about += _head(RAW, weight.nbytes)
    return _head(INITIALIZER, len(about) + weight.nbytes) + about


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
