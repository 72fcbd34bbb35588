"""Do an image's own install steps without Docker, and see whether what it installs runs.

    python -m deploy.check_image api|worker-cpu [--torch-index URL] [--python PYTHON] [--folder DIR]

The steps are read from the Dockerfile, so that they cannot drift apart. The files are installed into a
folder in place of `/`. As root on Linux, the image's commands then run as its user, without any
capability, in a mount namespace where everything but its volume and /tmp is read-only, as with
`docker run --read-only --cap-drop ALL`. Otherwise they run as you are, with the installed files
made read-only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from deploy.dockerfile import Image, allowed, read

ROOT = Path(__file__).resolve().parent.parent
USER = 10001
START_SECONDS = 120.0
# What of the image lies where, below the folder.
PLACES = ("/opt/axforge", "/src", "/var/lib/axforge", "/root/.cache/pip")
# Steps of the system's package manager and user database: not for the machine that checks.
SKIPPED = ("apt-get ", "python -m pip uninstall")
FORBIDDEN = {"api": ("torch", "transformers", "onnxruntime", "pip"), "worker-cpu": ("pip",)}
NEEDED = {"api": ("app", "migrations"), "worker-cpu": ("torch", "transformers", "onnxruntime", "pyarrow")}


def main() -> None:
    """Exit status 0 when the image of that name would build and run."""
    parser = argparse.ArgumentParser(description="Do an image's install steps and run what it installs.")
    parser.add_argument("target", choices=sorted(NEEDED))
    parser.add_argument("--torch-index", help="In place of the Dockerfile's index of torch.")
    parser.add_argument("--python", default="/usr/bin/python3", help="In place of the base image's.")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "check-image")
    options = parser.parse_args()
    folder = options.folder.resolve() / options.target
    shutil.rmtree(folder, ignore_errors=True)
    image = read(ROOT / "Dockerfile", options.target)
    place = Place(folder, image, options.python)
    place.install(options.torch_index)
    place.check_modules(options.target)
    with place.migrated():
        check_api(place) if options.target == "api" else check_worker(place)
    print(f"{options.target}: installed and ran as {place.confinement}.")


class Place:
    """An image's files below a folder."""

    def __init__(self, folder: Path, image: Image, python: str) -> None:
        self.folder = folder
        self.image = image
        self._python = python
        self._confine = os.geteuid() == 0 and _can_unshare()
        self.confinement = f"user {USER} on a read-only file system" if self._confine else "this user"

    def install(self, torch_index: str | None) -> None:
        """Copy what Docker would copy, and run the build stage's steps."""
        for place in PLACES:
            self._at(place).mkdir(parents=True)
        for name in allowed(ROOT):
            target = self._at("/src") / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
        environment = os.environ | self._moved(self.image.build_environment)
        environment |= {"PATH": f"{self._tools()}:{os.environ['PATH']}"}
        if torch_index:
            environment["TORCH_INDEX"] = torch_index
        for step in self.image.build_steps:
            if step.startswith(SKIPPED):
                print(f"- left out: {step[:70]}")
                continue
            print(f"+ {step}", flush=True)
            subprocess.run(
                ["bash", "-euc", self._below(step)], cwd=self._at("/src"), env=environment, check=True
            )
        _make_readable(self.folder)
        if self._confine:
            for path in [self._at("/var/lib/axforge")]:
                os.chown(path, USER, USER)
        else:
            subprocess.run(["chmod", "-R", "a-w", self._at("/opt/axforge"), self._at("/src")], check=True)

    def check_modules(self, target: str) -> None:
        """What the image must have and must not have."""
        code = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
        names = [*FORBIDDEN[target], *NEEDED[target]]
        found = self.run(["python", "-c", code, *names]).replace("'", '"')
        wrong = set(json.loads(found)) ^ set(NEEDED[target])
        if wrong:
            sys.exit(f"{target}: there but unwanted, or missing: {sorted(wrong)}")
        if target == "worker-cpu":
            self.run(["python", "-c", "import torch, transformers, onnxruntime"])

    @contextlib.contextmanager
    def migrated(self) -> Iterator[None]:
        """With a migrated SQLite database in the image's volume."""
        self.run(["python", "-m", "migrations"])
        yield

    def run(self, command: list[str], *, status: int = 0, **variables: str) -> str:
        """What a command of the image writes. Ends the check if its status is another one."""
        done = subprocess.run(
            self.command(command),
            env=self.environment(**variables),
            cwd=self._at("/var/lib/axforge"),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != status:
            sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        print(f"= {shlex.join(command)[:100]}", flush=True)
        return done.stdout + done.stderr

    def command(self, command: list[str]) -> list[str]:
        """The command, confined as it would be in a container. tini is the image's own."""
        if not self._confine:
            return [self._found(command[0]), *command[1:]]
        folder, volume = (shlex.quote(str(path)) for path in (self.folder, self._at("/var/lib/axforge")))
        prepare = (
            "mount --make-rprivate /"
            # The folder may lie below /tmp, which becomes an empty one.
            f" && mount --bind {folder} /mnt && mount -t tmpfs tmpfs /tmp && mkdir -p {folder}"
            f" && mount --bind /mnt {folder} && mount --bind {volume} {volume}"
            f" && mount -o remount,bind,ro {folder} && umount /mnt && mount -o remount,bind,ro /"
            f" && cd {volume} && exec setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs"
            ' --inh-caps=-all --bounding-set=-all -- "$@"'
        )
        return ["unshare", "--mount", "sh", "-c", prepare, "sh", self._found(command[0]), *command[1:]]

    def environment(self, **variables: str) -> dict[str, str]:
        """The image's own environment, and nothing of this machine's."""
        ours = self._moved(self.image.environment)
        ours["PATH"] = f"{self._at('/opt/axforge')}/bin:/usr/bin:/bin"
        return ours | variables

    def _found(self, program: str) -> str:
        return str(self._at("/opt/axforge") / "bin" / program)

    def _tools(self) -> Path:
        """`python` and `pip` as the base image has them."""
        tools = self.folder / "tools"
        tools.mkdir()
        (tools / "python").symlink_to(self._python)
        (tools / "pip").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pip "$@"\n')
        (tools / "pip").chmod(0o755)
        return tools

    def _at(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def _below(self, text: str) -> str:
        for place in PLACES:
            text = text.replace(place, str(self._at(place)))
        return text

    def _moved(self, variables: dict[str, str]) -> dict[str, str]:
        return {name: self._below(value) for name, value in variables.items()}


def check_api(place: Place) -> None:
    """The image's command serves, and its health check sees it; the loops start and stop."""
    port = _free_port()
    started = [str(port) if word == "8000" else word for word in place.image.command]
    healthy = [word.replace(":8000", f":{port}") for word in place.image.health_check]
    with _running(place, started) as process:
        _until(place, process, healthy)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            print(f"= /healthz: {answer.read().decode()}")
    place.run(["axforge", "--help"])
    for loop in ("worker.dispatcher", "worker.reaper"):
        with _running(place, ["python", "-m", loop]) as process:
            _until(place, process, ["python", "-m", "worker.alive"])


def check_worker(place: Place) -> None:
    """The image's command takes hints, and its health check sees it; a worker without a queue works too."""
    if "optimize" not in place.run(["axforge", "--help"]):
        sys.exit("axforge --help does not offer optimize")
    place.run(["python", "-m", "worker.runner", "job_none", "1"], status=75)  # no such job: not ours
    if "queue_empty" not in place.run(["python", "-m", "worker.drain"]):
        sys.exit("worker.drain did not find the queue empty")
    with _running(place, place.image.command) as process:
        _until(place, process, place.image.health_check)


@contextlib.contextmanager
def _running(place: Place, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the image with a queue in its volume; it has to end well at SIGTERM."""
    state = place.folder / "var/lib/axforge"
    variables = {"AXFORGE_BROKER_URL": f"filesystem://{state}/queue", "AXFORGE_ALIVE_FILE": f"{state}/alive"}
    (state / "alive").unlink(missing_ok=True)
    process = subprocess.Popen(
        place.command(command), env=place.environment(**variables), cwd=state, start_new_session=True
    )
    try:
        yield process
        process.terminate()
        if process.wait(60) != 0:
            sys.exit(f"{shlex.join(command)} ended with {process.returncode} at SIGTERM")
        print(f"= {shlex.join(command)[:100]}", flush=True)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until(place: Place, process: subprocess.Popen[bytes], health_check: list[str]) -> None:
    """Return once the health check passes."""
    deadline = time.monotonic() + START_SECONDS
    environment = place.environment(AXFORGE_ALIVE_FILE=f"{place.folder}/var/lib/axforge/alive")
    while True:
        check = subprocess.run(
            place.command(health_check), env=environment, capture_output=True, text=True, check=False
        )
        if check.returncode == 0:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the health check does not pass: {check.stderr}")
        time.sleep(0.3)


def _make_readable(folder: Path) -> None:
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)


def _can_unshare() -> bool:
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    probe = ["unshare", "--mount", "sh", "-c", "mount --make-rprivate / && mount -o remount,bind,ro /"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
