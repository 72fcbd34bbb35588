"""The files that put the service on machines, as data."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "deploy" / "kubernetes" / "example"


@pytest.fixture(scope="session")
def services() -> dict[str, Any]:
    """The services of docker-compose.yml, with all anchors merged."""
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return dict(document["services"])


@pytest.fixture(scope="session")
def manifests() -> list[dict[str, Any]]:
    """What `kubectl apply --kustomize deploy/kubernetes/example` would send."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", str(EXAMPLE)]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build", str(EXAMPLE)]
    else:
        pytest.skip("neither kubectl nor kustomize is installed: the manifests are not rendered")
    rendered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]
