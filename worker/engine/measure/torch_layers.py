"""A stack of transformer layers of given widths in torch, for the latency table of runtime torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from worker.engine.export.axforge_decoder import CausalStep
from worker.engine.export.layer_stack import layer_stack
from worker.engine.export.modeling_axforge import additive_mask
from worker.engine.measure.inputs import BenchInputs


def write_stack(path: Path, described: Mapping[str, Any], *, quantized: bool = False) -> None:
    """Describe a stack of layers, by the arguments of `layer_stack`, in a file that `layer_calls` reads.

    `quantized`: with weights in int8, as `save_int8_folder` has them.
    """
    path.write_text(json.dumps({"stack": dict(described), "quantized": quantized}), encoding="utf-8")


def layer_calls(
    path: Path, inputs: BenchInputs, threads: int, device: str
) -> list[Callable[[], npt.NDArray[np.float32]]]:
    """One call for every batch, on seeded noise of the batch's shape."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    stack = document["stack"]
    modules, relative, config = layer_stack(**stack)
    layers = [layer.eval().to(device) for layer in modules]
    if document["quantized"]:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        for layer in layers:
            quantize_(layer, Int8WeightOnlyConfig(version=2))
    positions = None if relative is None else relative.eval().to(device)

    def call(hidden: torch.Tensor, mask: torch.Tensor) -> Callable[[], npt.NDArray[np.float32]]:
        def run() -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                out, shared = hidden, None if positions is None else positions(hidden[..., 0])
                if config.causal is not None:
                    shared = CausalStep(torch.arange(hidden.shape[1], device=device)[None], mask)
                for layer in layers:
                    out = layer(out, mask, shared)
                return np.asarray(out[:, 0].cpu().numpy())

        return run

    calls = []
    for batch in inputs.batches():
        mask = torch.from_numpy(batch["attention_mask"]).to(device)
        mask = mask if config.causal is not None else additive_mask(mask, torch.float32)
        hidden = torch.randn(*batch["input_ids"].shape, stack["hidden_size"]).to(device)
        calls.append(call(hidden, mask))
    return calls
