"""The base model's folder: found, or fetched from the hub, and refused where it cannot be used safely.

Only config, tokenizer and safetensors files are ever read: pickle is never opened, remote code never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from models.spec import ModelSource
from models.spec.capabilities import ARCHITECTURES
from worker.engine.anatomy import ensure_supported
from worker.engine.anatomy.heads import HeadKind
from worker.engine.errors import ModelError, SourceError, UnsafeWeights
from worker.engine.prepare.hub import HubRepository
from worker.engine.prepare.quantized_source import check_quantization

POINTER = "/base_model"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# One of these makes a tokenizer: the fast one's own file, or what it can be built from.
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "tokenizer.model")
_SHARD_NAME = re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_DOWNLOADED = (
    "config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "model*.safetensors",
    INDEX,
)


def resolve_model(
    source: ModelSource, folder: Path, *, head: HeadKind | None = None, hub_endpoint: str | None = None
) -> Path:
    """A checked folder with config.json, safetensors weights and a tokenizer; the model may have `head`.

    `folder` is the run's own: it keeps which hub commit was taken. The hub is asked for config.json
    first, so that an architecture without an anatomy costs no download of weights.
    Raises SourceError, ModelError, UnsupportedArchitecture, UnsafeWeights, DiskFull.
    """
    if source.path is not None:
        found = Path(source.path)
        if not found.is_dir():
            raise SourceError(
                "base_model.path is not a folder on this machine",
                remedy="give a folder with config.json, *.safetensors and a tokenizer",
                pointer=f"{POINTER}/path",
            )
    elif source.hub is not None:
        found = _from_hub(source, folder, head, hub_endpoint)
    else:
        origin = "upload" if source.upload is not None else "uri"
        raise SourceError(
            f"base_model.{origin} is fetched by the service; the engine alone cannot",
            remedy="submit the job to a server, or give path or hub",
            pointer=f"{POINTER}/{origin}",
        )
    check_model_folder(found, head)
    return found


def check_model_folder(folder: Path, head: HeadKind | None = None) -> None:
    """Refuse what is no transformer, unknown, unsafe, incomplete or damaged; nothing is loaded.

    Raises ModelError, UnsupportedArchitecture, UnsafeWeights.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise _not_a_transformer("there is no config.json")
    check_config(_json_object(config), head)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file() and "auto_map" in _json_object(tokenizer):
        raise _remote_code(tokenizer.name)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    check_file_names(names)
    for shard, tensors in _shards(folder, names).items():
        _check_shard(folder / shard, tensors)


def check_config(config: dict[str, Any], head: HeadKind | None = None) -> None:
    """Refuse by config.json alone, also what cannot have `head`.

    Raises ModelError, UnsupportedArchitecture, UnsafeWeights.
    """
    if "auto_map" in config:
        raise _remote_code("config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise _not_a_transformer("config.json names no model_type")
    ensure_supported(config, head)
    check_quantization(config)


def check_file_names(names: Iterable[str]) -> None:
    """Refuse by the names of a model's files. Raises ModelError, UnsafeWeights."""
    names = set(names)
    if not {WEIGHTS, INDEX} & names:
        if any(name.endswith(_PICKLED) for name in names):
            raise UnsafeWeights(
                "the base model's weights are pickled (a pickle can run any code when it is opened)",
                remedy="convert them to safetensors: model.save_pretrained(folder) in transformers does",
                pointer=POINTER,
            )
        adapter = " but only an adapter" if "adapter_model.safetensors" in names else ""
        raise ModelError(
            f"the base model has no {WEIGHTS}{adapter}",
            remedy="give the folder that save_pretrained writes (an adapter must be merged first)",
            pointer=POINTER,
        )
    if not names & set(TOKENIZER_FILES):
        raise ModelError(
            "the base model has no tokenizer",
            remedy="add tokenizer.json to its folder: tokenizer.save_pretrained(folder) writes it",
            pointer=POINTER,
        )


def _from_hub(source: ModelSource, folder: Path, head: HeadKind | None, endpoint: str | None) -> Path:
    assert source.hub is not None
    repository = HubRepository.pinned(
        source.hub, "model", source.revision, folder / "base_model.json", endpoint=endpoint, pointer=POINTER
    )
    config = repository.file("config.json")
    if config is None:
        raise _not_a_transformer("the repository has no config.json")
    check_config(_json_object(config), head)
    check_file_names(repository.files(_DOWNLOADED))
    return repository.snapshot(_DOWNLOADED)


def _shards(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """File name of each shard, and the tensors that must be in it (of a single file: unknown)."""
    if WEIGHTS in names:
        return {WEIGHTS: []}
    weight_map = _json_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _damaged(INDEX, "it has no weight_map")
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise UnsafeWeights(
                f"{INDEX} names a file outside the model's folder",
                remedy="every value of weight_map must be a plain *.safetensors file name",
                pointer=POINTER,
            )
        if shard not in names:
            raise _damaged(INDEX, f"it names {shard}, which is missing")
        shards.setdefault(shard, []).append(tensor)
    return shards


def _check_shard(path: Path, tensors: list[str]) -> None:
    try:
        with safe_open(path, framework="pt") as opened:
            present = set(opened.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(path.name, "its header does not fit its content (cut short or overwritten)") from error
    if not present:
        raise _damaged(path.name, "it holds no tensors")
    absent = sorted(set(tensors) - present)
    if absent:
        raise _damaged(path.name, f"{len(absent)} tensors of the index are not in it, such as {absent[0]}")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path.name, "it is not JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path.name, "it is not a JSON object")
    return content


def _not_a_transformer(why: str) -> ModelError:
    return ModelError(
        f"the base model is not a transformer: {why}",
        remedy="give the folder or repository that transformers' save_pretrained wrote",
        pointer=POINTER,
    )


def _remote_code(name: str) -> UnsafeWeights:
    return UnsafeWeights(
        f"the base model wants code of its own to run (auto_map in {name}); it is never executed",
        remedy=f"choose a model of a built-in architecture: {', '.join(ARCHITECTURES)}",
        pointer=POINTER,
    )


def _damaged(name: str, why: str) -> ModelError:
    return ModelError(
        f"the base model's {name} is damaged: {why}",
        remedy="copy or upload the file again and compare its checksum",
        pointer=POINTER,
    )
