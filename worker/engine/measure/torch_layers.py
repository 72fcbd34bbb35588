"""A stack of transformer layers of given widths in torch, for the latency table of runtime torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from worker.engine.measure.inputs import BenchInputs


class Layer(nn.Module):
    """A post-norm encoder layer with random weights; no heads or channels leave the norm alone."""

    def __init__(self, hidden_size: int, head_size: int, heads: int, channels: int) -> None:
        super().__init__()
        self.heads, self.head_size, self.channels = heads, head_size, channels
        width = heads * head_size
        if heads:
            self.query = nn.Linear(hidden_size, width)
            self.key = nn.Linear(hidden_size, width)
            self.value = nn.Linear(hidden_size, width)
            self.attention_output = nn.Linear(width, hidden_size)
        if channels:
            self.up = nn.Linear(hidden_size, channels)
            self.down = nn.Linear(channels, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.ffn_norm = nn.LayerNorm(hidden_size)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, length, hidden] to the same; `mask` is true for real tokens, [batch, 1, 1, length]."""
        hidden = self.attention_norm(hidden + self._attended(hidden, mask) if self.heads else hidden)
        return torch.as_tensor(self.ffn_norm(hidden + self._fed(hidden) if self.channels else hidden))

    def _attended(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        split = (*hidden.shape[:-1], self.heads, self.head_size)
        query, key, value = (
            projection(hidden).view(split).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return torch.as_tensor(self.attention_output(context.transpose(1, 2).flatten(2)))

    def _fed(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.down(functional.gelu(self.up(hidden))))


def write_stack(path: Path, *, hidden_size: int, head_size: int, layers: list[tuple[int, int]]) -> None:
    """Describe a stack of (heads, channels) layers in a JSON file that `layer_calls` reads."""
    path.write_text(
        json.dumps({"hidden_size": hidden_size, "head_size": head_size, "layers": layers}), encoding="utf-8"
    )


def layer_calls(
    path: Path, inputs: BenchInputs, threads: int, device: str
) -> list[Callable[[], npt.NDArray[np.float32]]]:
    """One call for every batch, on seeded noise of the batch's shape."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    stack: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    layers = [
        Layer(stack["hidden_size"], stack["head_size"], heads, channels).eval().to(device)
        for heads, channels in stack["layers"]
    ]

    def call(hidden: torch.Tensor, mask: torch.Tensor) -> Callable[[], npt.NDArray[np.float32]]:
        def run() -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                out = hidden
                for layer in layers:
                    out = layer(out, mask)
                return np.asarray(out[:, 0].cpu().numpy())

        return run

    calls = []
    for batch in inputs.batches():
        mask = torch.from_numpy(batch["attention_mask"]).bool()[:, None, None, :].to(device)
        hidden = torch.randn(*batch["input_ids"].shape, stack["hidden_size"]).to(device)
        calls.append(call(hidden, mask))
    return calls
