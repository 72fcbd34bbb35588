"""Which target devices this worker serves. Imports no torch: the supervisor asks."""

from __future__ import annotations

import os
from pathlib import Path

NVIDIA_CONTROL = Path("/dev/nvidiactl")


def devices_served(setting: str, *, control: Path = NVIDIA_CONTROL) -> tuple[str, ...]:
    """The devices of `AXFORGE_WORKER_DEVICES`; `auto`: cpu, and cuda where a process can see a GPU."""
    if setting != "auto":
        return tuple(setting.split(","))
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}
    return ("cpu", "cuda") if control.exists() and not hidden else ("cpu",)
