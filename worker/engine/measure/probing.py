"""The parent's side of the probe: start one model in a fresh process, ask it, and end it."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

import worker
from worker.engine.measure.errors import MeasurementError, RuntimeUnavailable
from worker.engine.measure.inputs import BenchInputs

Runtime = Literal["onnxruntime", "torch", "torch-layers"]
DeviceName = Literal["cpu", "cuda"]
START_SECONDS = 180.0
ANSWER_SECONDS = 1800.0


@dataclass(frozen=True)
class ModelFile:
    """An exported model as one runtime loads it.

    `path` is an .onnx file for onnxruntime and a safetensors folder for torch. `remote_code` lets
    torch run the modelling file inside the folder: only for folders that this program exported.
    """

    path: Path
    runtime: Runtime = "onnxruntime"
    device: DeviceName = "cpu"
    remote_code: bool = False


@dataclass(frozen=True)
class Turn:
    """Milliseconds of every call, [passes, calls], and what other processes took away meanwhile.

    `waited`: seconds that the model's threads were ready and had no processor, for each second.
    """

    ms: npt.NDArray[np.float64]
    waited: float


class Probe:
    """A running probe process. Raises MeasurementError when it fails, ends or does not answer."""

    def __init__(self, process: subprocess.Popen[bytes], model: ModelFile, complaints: IO[bytes]) -> None:
        self._process = process
        self._model = model
        self._complaints = complaints
        self._unread = b""

    def timed(self, *, calls: int, repeats: int = 1, warmup: int = 0, first: int = 0) -> Turn:
        """`repeats` passes over `calls` batches from `first` on, after `warmup` uncounted calls."""
        request = {"do": "pass", "first": first, "calls": calls, "repeats": repeats, "warmup": warmup}
        answer = self._ask(request)
        return Turn(np.asarray(answer["ms"], dtype=np.float64).reshape(repeats, -1), answer["waited"])

    def logits(self) -> npt.NDArray[np.float32]:
        """Logits of all examples, [examples, outputs], or of all tokens, [tokens, outputs], in order.

        Where the inputs ask for it, `next_token_scores` in their stead, [tokens, 2].
        """
        with tempfile.TemporaryDirectory(prefix="axforge-logits-") as folder:
            file = Path(folder) / "logits.npy"
            self._ask({"do": "logits", "to": str(file)})
            return np.asarray(np.load(file, allow_pickle=False), dtype=np.float32)

    def peak_rss_bytes(self) -> int:
        return int(self._ask({"do": "memory"})["peak_rss_bytes"])

    def wait_until_ready(self, seconds: float) -> None:
        self._answer(seconds)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer(ANSWER_SECONDS)

    def _answer(self, seconds: float) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._line(time.monotonic() + seconds))
        if "error" in answer:
            raise self._failed(f"{answer['error']['type']}: {answer['error']['message']}")
        return answer

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._failed("no answer in time")
            chunk = os.read(self._process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise self._ended()
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _ended(self) -> MeasurementError:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return self._failed("it closed its output")
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return self._failed(f"it ended with code {code}" + (f": {lines[-1]}" if lines else ""))

    def _failed(self, cause: str) -> MeasurementError:
        kind = RuntimeUnavailable if "has no CUDAExecutionProvider" in cause else MeasurementError
        name, runtime = self._model.path.name, self._model.runtime
        return kind(
            f"{name} could not be measured in {runtime}: {_without_paths(cause)}",
            remedy="check that the target's runtime, device and sequence length suit the model, "
            "and that the worker has memory left",
            pointer="/target",
        )


@contextmanager
def probe(
    model: ModelFile, inputs: BenchInputs, *, threads: int, start_seconds: float = START_SECONDS
) -> Iterator[Probe]:
    """A probe that has loaded `model`. The process is gone when the block is left, however it is left."""
    with (
        tempfile.TemporaryDirectory(prefix="axforge-probe-") as folder,
        tempfile.TemporaryFile() as complaints,
    ):
        file = Path(folder) / "inputs.npz"
        inputs.save(file)
        process = subprocess.Popen(
            _command(model, file, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_environment(threads),
        )
        try:
            running = Probe(process, model, complaints)
            running.wait_until_ready(start_seconds)
            yield running
        finally:
            _end(process)


def _command(model: ModelFile, inputs: Path, threads: int) -> list[str]:
    command = [
        *(sys.executable, "-P", "-m", "worker.engine.measure.probe"),
        *("--model", str(model.path), "--runtime", model.runtime, "--device", model.device),
        *("--threads", str(threads), "--inputs", str(inputs)),
    ]
    return [*command, "--remote-code"] if model.remote_code else command


def _environment(threads: int) -> dict[str, str]:
    root = Path(next(iter(worker.__path__))).resolve().parent
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.kill()  # it holds nothing that is worth an orderly end
    process.wait()
    process.stdout.close()
    try:
        process.stdin.close()
    except BrokenPipeError:
        return  # what was still buffered had no reader


def _without_paths(text: str) -> str:
    """The text with every absolute path cut to its last name: users see it."""
    return re.sub(r"(?<![\w.])/(?:[^\s/:'\"]+/)+([^\s/:'\"]*)", r"\1", text)
