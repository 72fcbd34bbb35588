"""A runner whose engine does what the test says: `python -m tests.faults.scripted JOB ATTEMPT`.

It works in steps as the real one does: a stage that is prepared once, then candidates, each kept
before the next begins, then files. The folder AXFORGE_FAULTS directs it: while `hold-POINT` is
there it waits at that point (asking whether to stop), and `at-POINT` holds a deed to do there.
Points: `prepare`, `candidate-0` ..., `deliver`, or `1-prepare` for the first attempt only.
`log` gets a line `ATTEMPT WHAT` for all work begun.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from models.settings import Settings
from models.spec import JobSpec
from tests.faults.clock import shift
from tests.worker.fake_runner import File, Result, candidate, certificate
from worker.engine.reporting import Reporter
from worker.runner import run_job

CANDIDATES = 5
WEIGHTS_BYTES = 300_000


class Script:
    """What the test wants to happen, and the record of what did."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._folder = folder
        self._attempt = attempt

    def begin(self, point: str, reporter: Reporter) -> None:
        """Note that the work at a point begins; wait there, or do there, what the test says."""
        with (self._folder / "log").open("a") as log:
            log.write(f"{self._attempt} {point}\n")
        holds = [self._folder / f"hold-{point}", self._folder / f"hold-{self._attempt}-{point}"]
        while any(hold.exists() for hold in holds):
            reporter.check()
            time.sleep(0.01)
        for deed in (self._folder / f"at-{point}", self._folder / f"at-{self._attempt}-{point}"):
            if deed.exists():
                DEEDS[deed.read_text()]()


def segfault() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def be_killed_for_memory() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ask_for_too_much_memory() -> None:
    import torch

    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    torch.empty(16 << 30, dtype=torch.uint8)


def meet_a_full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


DEEDS = {
    deed.__name__: deed
    for deed in (segfault, be_killed_for_memory, ask_for_too_much_memory, meet_a_full_disk)
}


def engine(spec: JobSpec, workdir: Path, reporter: Reporter) -> Result:
    script = Script(Path(os.environ["AXFORGE_FAULTS"]), int(sys.argv[2]))
    reporter.progress("prepare", 0)
    prepared, state = workdir / "prepare" / "done.json", workdir / "search" / "state.json"
    if not prepared.exists():
        script.begin("prepare", reporter)
        _write(prepared, {})
    reporter.progress("search", 0, CANDIDATES)
    first = json.loads(state.read_text())["number"] if state.exists() else 0
    for number in range(first, CANDIDATES):
        script.begin(f"candidate-{number}", reporter)
        reporter.check()
        _write(state, {"number": number + 1})
        reporter.candidate(candidate(number))
    script.begin("deliver", reporter)
    return _files(spec, workdir)


def _write(path: Path, document: object) -> None:
    """As a whole: a killed run leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(document))
    partial.replace(path)


def _files(spec: JobSpec, folder: Path) -> Result:
    """Weights that are the same for the same spec, and the certificate that names their digest."""
    weights = folder / "model.onnx"
    weights.write_bytes(hashlib.shake_256(spec.digest().encode()).digest(WEIGHTS_BYTES))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    named = certificate(spec.digest()).model_copy(update={"artifacts": {weights.name: digest}})
    document = folder / "certificate.json"
    document.write_text(named.model_dump_json())
    return Result(
        named,
        (
            File(weights.name, weights, "application/octet-stream"),
            File(document.name, document, "application/json"),
        ),
    )


if __name__ == "__main__":
    shift()
    alone = lambda spec, workdir, reporter, _: engine(spec, workdir, reporter)  # noqa: E731
    sys.exit(run_job(Settings(), sys.argv[1], int(sys.argv[2]), alone))
