"""Where the bytes of a model's file are, read off the file itself: by part, and layer by layer."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.engine.measure.files import loaded_bytes
from worker.engine.measure.probing import ModelFile
from worker.engine.report.schema import Part, PartBytes, Precision

PARTS: tuple[Part, ...] = ("embeddings", "attention", "ffn", "head", "graph")
LAYER = re.compile(r"(?:^|\.)(?:layers?|albert_layers|block|h)\.(\d+)\.")
ATTENTION = re.compile(r"att|sa_layer_norm|relative")
OUTSIDE_HEAD = re.compile(r"embed|rel_|^projection|position|relative")
CONSTANT = re.compile(r"^(int|scalar|float|w4a8)\.")
SCALES = re.compile(r"(scales?|zero_points?|zp)(_\w+)?$")
SAFETENSORS_TYPES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "I8": "int8", "U8": "int8"}
LEAST_SHARE = 0.05  # of a part's values, that a way to store them is named


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file by its name there: the bytes it takes up, its values, and how each is stored."""

    name: str
    bytes: int
    values: int
    form: str


@dataclass(frozen=True)
class FileContent:
    """All tensors of a measured file; `rest` are the bytes that are no tensor: graph, names, headers."""

    tensors: tuple[StoredTensor, ...]
    rest: int


def content(file: ModelFile) -> FileContent:
    """Of a file as the target's runtime loads it. Raises MeasurementError where it has no weights."""
    read = _onnx_tensors if file.runtime == "onnxruntime" else _safetensors
    tensors = tuple(read(file.path))
    return FileContent(tensors, loaded_bytes(file) - sum(tensor.bytes for tensor in tensors))


def part_bytes(
    dense: FileContent, optimized: FileContent, optimized_layers: Sequence[int]
) -> tuple[PartBytes, ...]:
    """Both files' bytes, part by part and layer by layer; they sum up to the files' sizes.

    `optimized_layers`: the dense model's number of each layer that the optimized file holds, in order.
    """
    before, after = _counted(dense, None), _counted(optimized, optimized_layers)
    places = sorted(before.keys() | after.keys(), key=lambda place: (PARTS.index(place[0]), place[1] or 0))
    return tuple(
        PartBytes(part=part, layer=layer, dense=before[part, layer], optimized=after[part, layer])
        for part, layer in places
    )


def precision(held: FileContent) -> Precision:
    """How each part's weights are stored, the most frequent first; scales and zero points do not count."""
    forms: dict[Part, Counter[str]] = {part: Counter() for part in PARTS}
    for tensor in held.tensors:
        if SCALES.search(tensor.name) is None:
            forms[part_of(tensor.name)][tensor.form] += tensor.values
    return Precision(**{part: _named(forms[part]) for part in ("embeddings", "attention", "ffn", "head")})


def part_of(name: str) -> Part:
    """The part that a tensor belongs to, by its name in a graph of ours or in a stock checkpoint.

    A norm belongs to the block that it is beside.
    """
    if CONSTANT.match(name):
        return "graph"
    if (layer := LAYER.search(name)) is not None:
        return "attention" if ATTENTION.search(name, layer.end()) else "ffn"
    if name.startswith("relative."):
        return "attention"
    return "embeddings" if OUTSIDE_HEAD.search(name) else "head"


def _counted(held: FileContent, layers: Sequence[int] | None) -> Counter[tuple[Part, int | None]]:
    counted: Counter[tuple[Part, int | None]] = Counter()
    for tensor in held.tensors:
        found = LAYER.search(tensor.name)
        layer = None if found is None else int(found[1])
        if layer is not None and layers is not None:
            layer = layers[layer]
        counted[part_of(tensor.name), layer] += tensor.bytes
    counted["graph", None] += held.rest
    return counted


def _named(forms: Counter[str]) -> str:
    total = forms.total()
    return ", ".join(form for form, values in forms.most_common() if values >= LEAST_SHARE * total) or "none"


def _onnx_tensors(graph: Path) -> Iterator[StoredTensor]:
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        outside = ExternalDataInfo(tensor).length if uses_external_data(tensor) else 0
        values = math.prod(tensor.dims)
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        yield StoredTensor(
            tensor.name, tensor.ByteSize() + (outside or 0), values, _onnx_form(tensor.name, name)
        )


def _onnx_form(name: str, kind: str) -> str:
    if kind in ("INT4", "UINT4") or re.search(r"_Q4", name):
        return "int4"
    return {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "UINT8": "int8"}.get(kind, kind.lower())


def _safetensors(folder: Path) -> Iterator[StoredTensor]:
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                first, end = entry["data_offsets"]
                form = SAFETENSORS_TYPES.get(entry["dtype"], entry["dtype"].lower())
                yield StoredTensor(name, end - first, math.prod(entry["shape"]), form)
