"""The Dockerfile: linted, and what its images are allowed and set to."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.conftest import ROOT
from tests.deploy.settings import unknown

pytest.importorskip("dockerfile_parse", reason="dockerfile-parse is not installed: make check-deploy")
from deploy.dockerfile import Image, Stage, allowed, read, stages

DOCKERFILE = ROOT / "Dockerfile"
TARGETS = ("api", "worker-cpu", "worker-cuda")
STATE = "/var/lib/axforge"


@pytest.fixture(params=TARGETS)
def image(request: pytest.FixtureRequest) -> Image:
    return read(DOCKERFILE, request.param)


def test_hadolint_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: the Dockerfile is not linted (make check-deploy)")
    found = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_processes_are_nobody_and_write_to_the_volume_alone(image: Image) -> None:
    assert image.last("USER") == "10001:10001"  # by number, so that a cluster can see it is not root
    assert image.last("VOLUME") == STATE
    variables = image.environment
    written = ("HOME", "HF_HOME", "XDG_CACHE_HOME", "AXFORGE_DATA_DIR")
    caches = [name for name in variables if name.endswith(("_CACHE_DIR", "_CACHE_PATH"))]
    assert all(variables[name].startswith(STATE) for name in (*written, *caches))
    assert variables["TMPDIR"] == "/tmp"
    assert variables["PYTHONDONTWRITEBYTECODE"] == "1"
    assert unknown(variables) == set()


def test_signals_arrive_and_orphans_are_reaped(image: Image) -> None:
    assert image.last("STOPSIGNAL") == "SIGTERM"
    assert image.last("ENTRYPOINT") == '["/usr/bin/tini", "--"]'


def test_no_shell_is_between(image: Image) -> None:
    assert image.command[0] in ("axforge", "celery")
    assert image.health_check[0] == "python"
    assert all("shell" not in word and word != "sh" for word in (*image.command, *image.health_check))


def test_the_final_image_holds_no_tools_of_the_build(image: Image) -> None:
    steps = [step for stage in image.lineage for step in stage.of("RUN")]
    assert len(steps) == 1
    assert "pip uninstall" in steps[0]
    assert "apt-get" not in steps[0]
    assert all(copied.startswith("--from=") for stage in image.lineage for copied in stage.of("COPY"))


def test_images_say_what_they_are(image: Image) -> None:
    labels = image.last("LABEL")
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_only_the_base_is_from_elsewhere_and_it_can_be_pinned() -> None:
    known = stages(DOCKERFILE)
    foreign = {stage.base for stage in known.values()} - known.keys()
    assert foreign == {"${PYTHON_IMAGE}"}
    assert "PYTHON_IMAGE=python:3.11-slim-trixie@sha256:" in DOCKERFILE.read_text()


def test_steps_and_variables_of_a_build_are_read() -> None:
    image = read(DOCKERFILE, "worker-cpu")
    assert [step.split()[0] for step in image.build_steps] == ["apt-get", "python", "pip"]
    assert image.build_steps[-1].startswith("pip install --constraint constraints.txt --extra-index-url")
    assert image.build_environment["PIP_PYTHON"] == "/opt/axforge/bin/python"
    assert image.build_environment["TORCH_INDEX"].startswith("https://")
    assert Stage("a", "b", [("RUN", "x"), ("ENV", "y=1"), ("RUN", "z")]).of("RUN") == ["x", "z"]


def test_the_builder_gets_the_packages_and_nothing_else() -> None:
    files = set(allowed(ROOT))
    assert {"app/main.py", "sdk/pyproject.toml", "constraints.txt", "LICENSE"} <= files
    assert {name.split("/")[0] for name in files if "/" in name} == {
        *("app", "migrations", "models", "sdk", "worker")
    }
    assert not any(".env" in name or "__pycache__" in name for name in files)
