"""Base models that are quantized already: read as fp32, or refused with what would help."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from worker.engine.errors import ModelError
from worker.engine.prepare import check_model_folder
from worker.engine.prepare.quantized_source import dequantized

COMPRESSED = {"quant_method": "compressed-tensors", "format": "int-quantized"}
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao is not installed"
)


def quantize(
    folder: Path, scheme: dict[str, Any] | None, *, groups: int = 1, zero: bool = False
) -> dict[str, Any]:
    """Write the folder's linear weights as int8 with scales; answers what they stand for."""
    tensors, stored, stands_for = load_file(folder / "model.safetensors"), {}, {}
    for name, values in tensors.items():
        if not name.endswith(".weight") or values.dim() != 2 or "embeddings" in name:
            stored[name] = stands_for[name] = values
            continue
        blocks = values.unflatten(1, (groups, -1))
        scale = blocks.abs().amax(dim=2) / 100
        offset = torch.full_like(scale, 3).round() if zero else torch.zeros_like(scale)
        integers = (blocks / scale[..., None] + offset[..., None]).round().to(torch.int8)
        stored[name] = integers.flatten(1)
        stored[f"{name}_scale"] = scale
        if zero:
            stored[f"{name}_zero_point"] = offset.to(torch.int8)
        stored[f"{name.removesuffix('.weight')}.input_scale"] = torch.ones(1)
        stands_for[name] = ((integers.float() - offset[..., None]) * scale[..., None]).flatten(1)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    if scheme is not None:
        note(folder, scheme)
    return stands_for


def note(folder: Path, scheme: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": scheme}))


@pytest.mark.parametrize(
    ("scheme", "groups", "zero"), [(COMPRESSED, 1, False), (COMPRESSED, 4, True), (None, 1, False)]
)
def test_int8_with_scales_is_read_as_what_it_stands_for(
    scheme: dict[str, Any] | None, groups: int, zero: bool, model_copy: Path, tmp_path: Path
) -> None:
    stands_for = quantize(model_copy, scheme, groups=groups, zero=zero)
    check_model_folder(model_copy)
    folder, was = dequantized(model_copy, tmp_path / "fp32")
    assert was is not None
    assert was.scheme == ("int8 with scales" if scheme is None else "compressed-tensors")
    assert was.bytes == (model_copy / "model.safetensors").stat().st_size
    assert was.fp32_bytes == (folder / "model.safetensors").stat().st_size > was.bytes
    found = load_file(folder / "model.safetensors")
    assert found.keys() == stands_for.keys()
    for name, values in stands_for.items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-7)
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["mismatched_keys"]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert (folder / "tokenizer.json").is_file()


def test_is_written_once_and_after_a_kill_again(model_copy: Path, tmp_path: Path) -> None:
    quantize(model_copy, COMPRESSED)
    (tmp_path / "fp32.unfinished").mkdir()
    folder, was = dequantized(model_copy, tmp_path / "fp32")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert dequantized(model_copy, tmp_path / "fp32") == (folder, was)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert not (tmp_path / "fp32.unfinished").exists()


def test_a_float_model_is_left_alone_even_on_a_grid(model_copy: Path, tmp_path: Path) -> None:
    tensors = {
        name: (values * 50).round() / 50
        for name, values in load_file(model_copy / "model.safetensors").items()
    }
    save_file(tensors, model_copy / "model.safetensors", metadata={"format": "pt"})
    assert dequantized(model_copy, tmp_path / "fp32") == (model_copy, None)


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "by gptq, which takes gptqmodel"),
        ({"load_in_8bit": True}, "by bitsandbytes"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "in the format pack-quantized"),
        ({"quant_method": "something"}, "by something"),
        (["int8"], "an unknown scheme"),
    ],
)
def test_other_schemes_are_refused_by_the_config(scheme: Any, said: str, model_copy: Path) -> None:
    note(model_copy, scheme)
    with pytest.raises(ModelError, match=said) as raised:
        check_model_folder(model_copy)
    assert "int-quantized" in raised.value.remedy
    assert raised.value.pointer == "/base_model"


@pytest.mark.parametrize("break_it", ["missing", "shape", "nan"])
def test_scales_that_do_not_fit_are_told(break_it: str, model_copy: Path, tmp_path: Path) -> None:
    quantize(model_copy, COMPRESSED)
    tensors = load_file(model_copy / "model.safetensors")
    name = next(name for name in tensors if name.endswith(".weight_scale"))
    match break_it:
        case "missing":
            del tensors[name]
        case "shape":
            tensors[name] = torch.ones(7)
        case _:
            tensors[name][0] = float("nan")
    save_file(tensors, model_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="scale"):
        dequantized(model_copy, tmp_path / "fp32")


@needs_torchao
def test_torchao_is_read_where_it_is_installed(model_copy: Path, tmp_path: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    plain = AutoModel.from_pretrained(model_copy)
    small = AutoModel.from_pretrained(model_copy, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    small.save_pretrained(model_copy)
    check_model_folder(model_copy)
    folder, was = dequantized(model_copy, tmp_path / "fp32")
    assert was is not None
    assert was.scheme == "torchao"
    assert was.bytes < was.fp32_bytes
    read = AutoModel.from_pretrained(folder)
    for (name, one), other in zip(plain.named_parameters(), read.parameters(), strict=True):
        assert (one - other).abs().max() <= one.abs().max() / 127 + 1e-6, name


def test_torchao_is_named_where_it_is_missing(model_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(model_copy, {"quant_method": "torchao", "quant_type": {"default": {}}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="torchao, which is not installed") as raised:
        check_model_folder(model_copy)
    assert "install torchao" in raised.value.remedy
