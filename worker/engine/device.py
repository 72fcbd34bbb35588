"""The machine a run computes on: which device, at which precision it is fast, under which seed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Precision = Literal["fp32", "bf16", "fast"]
# Processors that multiply bf16 in hardware. Elsewhere autocast converts back and forth and loses time.
_BF16_CAPABILITIES = ("amx_bf16", "avx512_bf16", "avx10_2", "bf16", "sve_bf16")
_SHORT_ATTENTION = 128
# Of a batch that is only evaluated. On CPU its activations then stay in the cache: 128 rows of 14 tokens took
# 1.3 times as long as 32, 64 of 128 tokens 1.1 times as long as 8; 256 are too few (Zen 4, MiniLM). The
# number for CUDA was not measured.
_TOKENS_TOGETHER = {"cpu": 1024, "cuda": 65_536}


@dataclass(frozen=True)
class Device:
    """Made by `pick`. `bf16_is_fast` says whether precision `fast` means bf16 autocast or fp32."""

    torch_device: torch.device
    bf16_is_fast: bool

    @staticmethod
    def pick(kind: Literal["cpu", "cuda", "auto"] = "auto", *, threads: int | None = None) -> Device:
        """The device of that kind (`auto`: cuda where there is one).

        `threads` bounds the processors that torch uses. Raises RuntimeError without the cuda asked for.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        if kind == "cuda" or (kind == "auto" and torch.cuda.is_available()):
            if not torch.cuda.is_available():
                raise RuntimeError("this machine has no CUDA device")
            return Device(torch.device("cuda"), torch.cuda.is_bf16_supported(including_emulation=False))
        capabilities = torch.cpu.get_capabilities()
        return Device(torch.device("cpu"), any(capabilities.get(name) for name in _BF16_CAPABILITIES))

    def autocast(self, precision: Precision) -> AbstractContextManager[object]:
        """Context in which matrix products run at `precision`; weights stay fp32."""
        enabled = precision == "bf16" or (precision == "fast" and self.bf16_is_fast)
        return torch.autocast(self.torch_device.type, dtype=torch.bfloat16, enabled=enabled)

    def attention(self, length: int) -> AbstractContextManager[object]:
        """Context of a training step on batches of `length` tokens: the attention kernel that is fastest.

        On CPU the backward pass of flash attention has a fixed cost that short rows do not pay back:
        6.9 times that of plain matrix products at 12 tokens, 1.2 at 128, and half of it at 256.
        """
        if self.torch_device.type == "cpu" and length <= _SHORT_ATTENTION:
            return cast(AbstractContextManager[object], sdpa_kernel(SDPBackend.MATH))
        return nullcontext()

    def rows_together(self, length: float) -> int:
        """How many rows of that mean length, in tokens, are evaluated fastest in one batch."""
        return max(1, round(_TOKENS_TOGETHER[self.torch_device.type] / max(1.0, length)))

    def put(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors on this device."""
        return {name: tensor.to(self.torch_device, non_blocking=True) for name, tensor in tensors.items()}

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Random numbers from `seed` inside; the outer state comes back at the end."""
        cuda = [torch.cuda.current_device()] if self.torch_device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            yield

    @property
    def description(self) -> str:
        """Name of the processor, for the record."""
        if self.torch_device.type == "cuda":
            return torch.cuda.get_device_name(self.torch_device)
        name = torch.cpu.get_capabilities().get("cpu_name", "cpu")
        return f"{name} ({os.cpu_count()} processors, {torch.get_num_threads()} threads)"
