"""Another rung of a finished run is exported and certified without searching again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.engine.runs import Recorder, tiny_sources, tiny_spec
from worker.engine.outcome import NoSuchRung, settle_on
from worker.engine.pipeline import run
from worker.engine.stages import recover
from worker.engine.workspace import read_json


@pytest.mark.slow
def test_every_rung_can_be_delivered_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without training a rung takes seconds; with a bound on accuracy that anything holds there are several.
    monkeypatch.setattr(recover, "MAX_RUNGS", 2)
    spec = tiny_spec(
        tiny_sources(tmp_path),
        recovery="off",
        constraints={"accuracy": {"max_absolute_drop": 1.0}},
        focus="balanced",
        budget={"max_minutes": 4},
    )
    first, told = run(spec, tmp_path / "run", Recorder()), Recorder()
    trained = _candidates(tmp_path / "run")
    assert len(trained) > 1
    delivered = (read_json(tmp_path / "run" / "recover" / "done.json") or {})["number"]
    other = next(rung["number"] for rung in trained if rung["number"] != delivered)
    searched = (read_json(tmp_path / "run" / "search" / "done.json") or {})["candidates"]
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "run", again, ignore=shutil.ignore_patterns("export", "certify"))
    settle_on(again, searched + other)
    result = run(spec, again, told)
    assert result.certificate.recipe.model_dump(mode="json") == trained[other]["recipe"]
    assert result.certificate.recipe != first.certificate.recipe
    assert result.certificate.optimized.size_bytes == trained[other]["size_bytes"]
    assert told.candidates == []
    with pytest.raises(NoSuchRung):
        settle_on(again, searched + len(trained))
    with pytest.raises(NoSuchRung):
        settle_on(again, searched - 1)


def _candidates(folder: Path) -> list[dict[str, Any]]:
    climb = read_json(folder / "recover" / "climb.json")
    assert climb is not None
    rungs: list[dict[str, Any]] = climb["rungs"]
    return rungs
