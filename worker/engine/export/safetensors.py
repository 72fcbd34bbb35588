"""The safetensors folder: native where a stock class holds the shape, else with its own modelling file."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.spec import Loadable
from worker.engine.anatomy.heads import AUTO_CLASSES, HeadKind, kind_of
from worker.engine.export import (
    axforge_attention,
    axforge_decoder,
    axforge_heads,
    axforge_sparse_attention,
    modeling_axforge,
)

MODELLING = (modeling_axforge, axforge_attention, axforge_sparse_attention, axforge_heads, axforge_decoder)
"""The modules that a folder carries when no stock class holds its shape."""


def save_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Loadable:
    """Write config, weights and tokenizer; answers how the folder is loaded elsewhere.

    `native`: by plain `from_pretrained` of the task's auto class, such as
    `AutoModelForSequenceClassification`. `remote_code`: the same with `trust_remote_code=True`, which runs
    the modelling files that are put beside the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = isinstance(model, modeling_axforge.AxforgePreTrainedModel)
    if own:
        name = type(model).__name__
        model.config.auto_map = {
            "AutoConfig": f"{_stem(modeling_axforge)}.AxforgeConfig",
            AUTO_CLASSES[_kind([name])].__name__: f"{_stem(_own_modules()[name])}.{name}",
        }
        for module in MODELLING:
            shutil.copyfile(str(module.__file__), folder / f"{_stem(module)}.py")
    with _with_cache(model):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return "remote_code" if own else "native"


def torchao_installed() -> bool:
    """Whether this process could write and read what `save_int8_folder` writes. Loads nothing."""
    return importlib.util.find_spec("torchao") is not None


def save_int8_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Loadable:
    """As `save_folder`, with the linear modules' weights in int8 by torchao's quantizer, a scale a row.

    Activations stay floats, and so do embeddings and a language model's head. Whoever loads the folder needs
    torchao, too. Raises ImportError where it is not installed.
    """
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".plain-", dir=folder.parent) as name:
        plain = Path(name)
        loadable = save_folder(model, tokenizer, plain)
        quantized = load_folder(plain, quantization_config=TorchAoConfig(Int8WeightOnlyConfig(version=2)))
        with _with_cache(quantized):
            quantized.save_pretrained(folder)
        for file in plain.iterdir():
            if not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
    return loadable


def load_folder(folder: Path, **options: Any) -> PreTrainedModel:
    """The model that `save_folder` wrote, in evaluation mode. The folder's own code is not run.

    `options` are further ones of `from_pretrained`.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config["architectures"][0]
    own = config["model_type"] == "axforge"
    loader = getattr(_own_modules()[name], name) if own else AUTO_CLASSES[_kind([name])]
    model: PreTrainedModel = loader.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, **options
    )
    if _kind([name]) == "causal":
        model.config.use_cache = False  # see `_with_cache`
    return model.eval()


@contextmanager
def _with_cache(model: PreTrainedModel) -> Iterator[None]:
    """The engine scores and trains without a cache of keys and values; who loads a folder may generate."""
    before = getattr(model.config, "use_cache", None)
    if before is None:
        yield
        return
    model.config.use_cache = True
    try:
        yield
    finally:
        model.config.use_cache = before


def _own_modules() -> dict[str, ModuleType]:
    """The engine's own model classes, by name, and where each is written."""
    return {
        name: module
        for module in MODELLING
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }


def _stem(module: ModuleType) -> str:
    return Path(str(module.__file__)).stem


def _kind(names: list[str]) -> HeadKind:
    kind = kind_of(names)
    if kind is None:
        raise ValueError(f"a model class with no known head: {names}")
    return kind
