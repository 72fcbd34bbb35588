"""The machine that measurements were taken on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from worker.engine.measure.errors import RuntimeUnavailable
from worker.engine.measure.probing import DeviceName

DISTRIBUTIONS = {
    "axforge": "axforge-server",
    "torch": "torch",
    "transformers": "transformers",
    "onnxruntime": "onnxruntime",
    "onnx": "onnx",
    "numpy": "numpy",
    "torchao": "torchao",
}
REPLACEMENTS = {"onnxruntime": "onnxruntime-gpu"}


@dataclass(frozen=True)
class Machine:
    """`cores` are the processors this process may use; `threads` those that a model is measured with."""

    processor: str
    cores: int
    threads: int
    memory_bytes: int
    gpu: str | None
    versions: dict[str, str]

    @property
    def device(self) -> str:
        """One line for the certificate."""
        host = f"{self.processor}, {self.cores} cores, {self.threads} threads"
        return f"{self.gpu} ({host})" if self.gpu else host


def describe(device: DeviceName = "cpu", *, threads: int | None = None) -> Machine:
    """This machine, measured with `threads` (all usable processors by default).

    Raises RuntimeUnavailable when device is cuda and there is none.
    """
    return Machine(
        processor=_processor(),
        cores=usable_processors(),
        threads=threads or usable_processors(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu=_gpu() if device == "cuda" else None,
        versions=versions(),
    )


def usable_processors() -> int:
    """Processors that the scheduler may put this process on."""
    return len(os.sched_getaffinity(0))


def versions() -> dict[str, str]:
    """Of Python and of every distribution that decides a measurement; absent ones are left out."""
    found = {name: _version(name, distribution) for name, distribution in DISTRIBUTIONS.items()}
    return {
        "python": platform.python_version(),
        **{name: version for name, version in found.items() if version is not None},
    }


def _version(name: str, distribution: str) -> str | None:
    for candidate in (distribution, REPLACEMENTS.get(name)):
        if candidate is not None:
            try:
                return metadata.version(candidate)
            except metadata.PackageNotFoundError:
                continue
    return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.machine()


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeUnavailable(
            "this worker has no CUDA device",
            remedy="set target.device to cpu, or run the job on a worker with a GPU",
            pointer="/target/device",
        )
    return torch.cuda.get_device_name()
