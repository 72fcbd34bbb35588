"""Exported files: how large what the runtime loads is, and what identifies each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from worker.engine.measure.errors import MeasurementError
from worker.engine.measure.probing import ModelFile


def loaded_bytes(model: ModelFile) -> int:
    """Bytes on disk of weights and graph: the .onnx file with its external data, or *.safetensors.

    The tokenizer is not counted. Raises MeasurementError when the weights are not there.
    """
    files = _onnx_files(model.path) if model.runtime == "onnxruntime" else model.path.glob("*.safetensors")
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size == 0:
        raise MeasurementError(
            f"the export {model.path.name} has no weights for {model.runtime}",
            remedy="export to the format that the target's runtime loads",
            pointer="/exports",
        )
    return size


def exported_files(folder: Path) -> dict[str, Path]:
    """Every file below a folder, hidden ones too, by its relative POSIX name, sorted."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file for file in files}


def sha256(file: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _onnx_files(graph: Path) -> Iterable[Path]:
    if not graph.is_file():
        return ()
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = onnx.load(graph, load_external_data=False)
    outside = {
        ExternalDataInfo(tensor).location for tensor in model.graph.initializer if uses_external_data(tensor)
    }
    return [graph, *(graph.parent / name for name in sorted(outside))]
