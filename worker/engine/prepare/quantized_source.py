"""Base models that are quantized already (as Q8BERT is): read as the fp32 model that they stand for.

Everything that the engine does is decided on fp32 weights, so integers are multiplied out by their scales
before anything else. What a model computes with quantized activations is not kept: its weights are.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from worker.engine.errors import ModelError

POINTER = "/base_model"
WEIGHTS = "model.safetensors"
INTEGERS = (torch.int8, torch.uint8)
_OF_WEIGHTS = ("_scale", "_zero_point", "_shape", "_g_idx")  # beside "<module>.weight"
_OF_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
_READ_FORMATS = ("int-quantized", "naive-quantized")  # of compressed-tensors: one integer a value
_ALSO_NEEDED = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "quanto": "optimum-quanto",
    "hqq": "hqq",
    "aqlm": "aqlm",
    "eetq": "eetq",
}
"""What transformers needs for some schemes, most of them on a GPU."""


@dataclass(frozen=True)
class QuantizedSource:
    """What a quantized base model was: its scheme, its weights' bytes, and those of the same in fp32."""

    scheme: str
    bytes: int
    fp32_bytes: int


def check_quantization(config: Mapping[str, Any]) -> None:
    """Refuse, by config.json alone, weights that cannot be read here. Raises ModelError."""
    given = config.get("quantization_config")
    if given is None:
        return
    scheme, form = _scheme(given)
    if scheme == "torchao" and importlib.util.find_spec("torchao") is None:
        raise _refused("by torchao, which is not installed here", "ask the operator to install torchao, or ")
    if scheme == "compressed-tensors" and form not in _READ_FORMATS:
        raise _refused(f"by compressed-tensors in the format {form or 'unknown'}")
    if scheme not in ("torchao", "compressed-tensors"):
        package = _ALSO_NEEDED.get(scheme)
        needs = f", which takes {package}" if package else ""
        raise _refused(f"by {scheme}{needs}")


def dequantized(folder: Path, target: Path) -> tuple[Path, QuantizedSource | None]:
    """The folder of the same model in fp32, and what it was; a checked `folder` itself where it is no other.

    `target` is written where that is needed, once. Raises ModelError when integers have no scales that
    fit them.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    given = config.get("quantization_config")
    if given is None and not _has_integers(folder):
        return folder, None
    note = target / "quantized.json"
    if not note.is_file():
        scheme = "int8 with scales" if given is None else _scheme(given)[0]
        unfinished = target.with_name(f"{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(folder, unfinished, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin"))
        if scheme == "torchao":
            _write_from_torchao(folder, unfinished)
        else:
            save_file(_multiplied_out(_tensors(folder)), unfinished / WEIGHTS, metadata={"format": "pt"})
        config.pop("quantization_config", None)
        config.pop("dtype", None)
        (unfinished / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        sizes = {"bytes": _weight_bytes(folder), "fp32_bytes": _weight_bytes(unfinished)}
        (unfinished / note.name).write_text(json.dumps({"scheme": scheme, **sizes}), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
    return target, QuantizedSource(**json.loads(note.read_text(encoding="utf-8")))


def _scheme(given: Any) -> tuple[str, str | None]:
    """Method and format that a `quantization_config` names."""
    if not isinstance(given, Mapping):
        return "an unknown scheme", None
    method = str(given.get("quant_method", "an unknown scheme"))
    known = any(given.get(name) for name in ("load_in_4bit", "load_in_8bit"))
    return "bitsandbytes" if known else method, given.get("format")


def _refused(how: str, first: str = "") -> ModelError:
    return ModelError(
        f"the base model is quantized {how}, and cannot be read",
        remedy=f"{first}give the model's float weights (of a loaded one: model.dequantize(), then "
        "save_pretrained), or int8 weights with scales as compressed-tensors' int-quantized format has them",
        pointer=POINTER,
    )


def _has_integers(folder: Path) -> bool:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118, it is no mapping
                if name.endswith(".weight") and opened.get_slice(name).get_dtype() in ("I8", "U8"):
                    return True
    return False


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def _multiplied_out(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights in floats, without what only the integers needed."""
    plain: dict[str, Tensor] = {}
    for name, values in tensors.items():
        weight = next((name.removesuffix(end) for end in _OF_WEIGHTS if name.endswith(f".weight{end}")), None)
        if weight in tensors or name.rpartition(".")[2] in _OF_ACTIVATIONS:
            continue
        if name.endswith(".weight") and values.dtype in INTEGERS:
            values = _floats(name, values, tensors)
        plain[name] = values.contiguous()
    return plain


def _floats(name: str, values: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """scale * (integer - zero point), with a scale a tensor, a row, or a group of a row's values."""
    scale, zero = tensors.get(f"{name}_scale"), tensors.get(f"{name}_zero_point")
    if scale is None:
        raise _unfit(f"{name} are integers without {name.rpartition('.')[2]}_scale")
    if not bool(torch.isfinite(scale.float()).all()):
        raise _unfit(f"the scales of {name} are not finite numbers")
    wide = values.float() - _spread(name, torch.zeros(1) if zero is None else zero, values.shape)
    return wide * _spread(name, scale, values.shape)


def _spread(name: str, factors: Tensor, shape: torch.Size) -> Tensor:
    """Scales or zero points, one for each value, or such as are broadcast to them."""
    factors = factors.float()
    if factors.numel() == 1:
        return factors.reshape(1)
    rows = factors.reshape(shape[0], -1) if factors.numel() % shape[0] == 0 else factors
    if len(shape) != 2 or rows.shape[0] != shape[0] or shape[1] % rows.shape[1]:
        raise _unfit(f"{tuple(factors.shape)} scales do not fit {name} of shape {tuple(shape)}")
    return rows.repeat_interleave(shape[1] // rows.shape[1], dim=1)


def _write_from_torchao(folder: Path, target: Path) -> None:
    from transformers import AutoModel

    from worker.engine.anatomy.heads import AUTO_CLASSES, kind_of

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = kind_of(config.get("architectures"))
    loader = AutoModel if kind is None else AUTO_CLASSES[kind]
    model = loader.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    # Weights that torchao quantized are of its own tensor classes, each of which can be multiplied out.
    plain = {
        name: (values.dequantize() if hasattr(values, "tensor_data_names") else values).float().contiguous()
        for name, values in model.state_dict().items()
    }
    save_file(plain, target / WEIGHTS, metadata={"format": "pt"})


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _unfit(why: str) -> ModelError:
    return ModelError(
        f"the base model's quantized weights cannot be read: {why}",
        remedy="give the model's float weights",
        pointer=POINTER,
    )
