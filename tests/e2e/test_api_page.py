"""The commands of docs/api.md, run as they stand against a server."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from examples.demo import embedded_server

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.slow
def test_commands_of_the_api_page_run(inputs: Path, tmp_path: Path) -> None:
    # A server of its own: at its end the page shuts the door.
    with embedded_server(tmp_path / "server") as server_url:
        done = _run_page(server_url, inputs, tmp_path)
    log = (tmp_path / "server" / "server.log").read_text(errors="replace")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr + log[-6000:]
    assert (tmp_path / "certificate.json").is_file()
    assert "/focus" in done.stdout
    assert "\nmissing_scope\nunauthenticated\n" in done.stdout
    assert "The API key is revoked." in done.stdout
    assert "event: end" in done.stdout
    assert "\n304\n" in done.stdout


def _run_page(server_url: str, inputs: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    commands = "\n".join(BLOCK.findall((ROOT / "docs" / "api.md").read_text()))
    script = commands.replace("http://127.0.0.1:8000", server_url)
    assert script != commands
    shutil.copytree(inputs / "model", tmp_path / "models" / "all-MiniLM-L6-v2")
    shutil.copytree(inputs / "data", tmp_path / "data" / "banking77")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
