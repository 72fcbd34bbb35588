from __future__ import annotations

from pathlib import Path

import pytest

from worker.devices import devices_served


def test_what_is_set_is_served() -> None:
    assert devices_served("cuda") == ("cuda",)
    assert devices_served("cpu,cuda") == ("cpu", "cuda")


def test_a_gpu_is_found_unless_it_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = tmp_path / "nvidiactl"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices_served("auto", control=control) == ("cpu",)
    control.touch()
    assert devices_served("auto", control=control) == ("cpu", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices_served("auto", control=control) == ("cpu",)
