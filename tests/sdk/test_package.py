"""The distribution stays small and true to the server's snapshot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST_MODULES = "import sys, axforge, axforge.cli.main; print(*sorted(sys.modules))"
FORBIDDEN = {"app", "worker", "models", "torch", "transformers", "numpy", "sqlalchemy", "celery", "fastapi"}


def test_importing_the_client_loads_nothing_of_the_server() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", LIST_MODULES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "axforge.cli.main" in loaded
    assert {name.partition(".")[0] for name in loaded} & FORBIDDEN == set()


def test_the_types_are_those_of_the_snapshot() -> None:
    found = subprocess.run(
        [sys.executable, "sdk/generate_types.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


def test_a_field_that_the_snapshot_has_and_the_types_have_not_is_noticed(tmp_path: Path) -> None:
    for part in ("sdk/generate_types.py", "sdk/src/axforge/_generated.py", "docs/openapi.json"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_bytes((ROOT / part).read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    snapshot = tmp_path / "docs/openapi.json"
    snapshot.write_text(snapshot.read_text().replace('"cancel_requested"', '"stop_requested"'))
    found = subprocess.run(
        [sys.executable, "sdk/generate_types.py", "--check"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 1
    assert "generate_types.py" in found.stderr
