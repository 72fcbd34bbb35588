"""docker-compose.yml: read by Compose where it is installed, and confined as it should be."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import ROOT
from tests.deploy.settings import unknown

OURS = {"api", "deliverer", "dispatcher", "migrate", "reaper", "worker-cpu", "worker-gpu"}
OTHERS = {"bucket", "postgres", "s3", "valkey"}
ENDING = {"bucket", "migrate"}


def test_compose_takes_it(tmp_path: Path) -> None:
    commands = [["docker", "compose"], ["docker-compose"]]
    installed = [command for command in commands if shutil.which(command[0]) and _runs([*command, "version"])]
    if not installed:
        pytest.skip("Docker Compose is not installed: docker-compose.yml is not read by it")
    environment = (ROOT / ".env.example").read_text()
    (tmp_path / "env").write_text(re.sub(r"^(\w+)=$", r"\1=0123456789abcdef", environment, flags=re.M))
    command = [*installed[0], "--env-file", str(tmp_path / "env"), "--file", str(ROOT / "docker-compose.yml")]
    done = subprocess.run(
        [*command, "--profile", "gpu", "config", "--quiet"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def _runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_all_parts_are_there(services: dict[str, Any]) -> None:
    assert set(services) == OURS | OTHERS


def test_every_service_is_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert service["pids_limit"] <= 512, name
        assert "privileged" not in service, name
        assert not any(str(volume).startswith(("/", ".")) for volume in service.get("volumes", ())), name


def test_every_service_that_stays_is_watched(services: dict[str, Any]) -> None:
    for name in (OURS | OTHERS) - ENDING - {"api", "worker-cpu", "worker-gpu"}:  # these: by their image
        assert services[name]["healthcheck"]["test"][0] == "CMD", name
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            ends = needed in ENDING
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy"), name


def test_only_the_api_is_reached_and_by_default_from_this_machine(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"api": ["${AXFORGE_BIND:-127.0.0.1}:${AXFORGE_PORT:-8000}:8000"]}


def test_commands_are_modules_of_ours(services: dict[str, Any]) -> None:
    for name in OURS:
        command = services[name].get("command")
        if command is not None:
            assert command[:2] == ["python", "-m"], name
            assert find_spec(command[2]) is not None, command[2]


def test_settings_are_known_and_secrets_are_asked_for(services: dict[str, Any]) -> None:
    example = (ROOT / ".env.example").read_text()
    for name in OURS:
        assert unknown(services[name]["environment"]) == set(), name
    for service in services.values():
        for variable in re.findall(r"\$\{(\w+):\?", str(service)):
            assert re.search(rf"^{variable}=$", example, re.M), variable
    signing = {name for name in OURS if "AXFORGE_SECRET_KEY" in services[name]["environment"]}
    assert signing == {"api", "deliverer"}


def test_images_of_others_have_a_version(services: dict[str, Any]) -> None:
    for name in OTHERS:
        assert re.search(r":v?\d+\.\d+", services[name]["image"]), name


def test_a_run_has_time_to_write_its_checkpoint(services: dict[str, Any]) -> None:
    from models.settings import Settings

    grace = Settings.model_fields["stop_grace_seconds"].default
    for name in ("worker-cpu", "worker-gpu"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > grace
