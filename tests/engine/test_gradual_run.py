"""Gradual recovery of a real run: its steps are kept, and a killed run goes on to the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from models.spec import JobSpec
from tests.engine.runs import Recorder, tiny_sources, tiny_spec
from worker.engine.anatomy import anatomy_of
from worker.engine.errors import Stopped
from worker.engine.export import load_folder
from worker.engine.pipeline import do_stages
from worker.engine.reporting import STAGES, SilentReporter
from worker.engine.run import Run
from worker.engine.stages import recover


@pytest.mark.slow
def test_a_killed_climb_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXFORGE_CACHE_DIR", str(tmp_path / "cache"))
    # What is kept for later stages is most of a budget as small as a test's.
    monkeypatch.setattr(recover, "RESERVE_SECONDS", 1.0)
    monkeypatch.setattr(recover, "MEASURING_SECONDS", 1.0)
    spec = tiny_spec(
        tiny_sources(tmp_path),
        constraints={"size": {"min_reduction": 6.0}},
        approximations=["prune_layers", "prune_heads", "prune_weight_groups", "quantize"],
        recovery={"epochs": 1, "schedule": "gradual"},
        budget={"max_minutes": 4},
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _searched(spec, whole)
    shutil.copytree(whole, killed)
    recorder = Recorder()
    recover.recover(Run(spec, whole, recorder))
    assert recorder.events == ["recover.gradual"]
    climb = _climb(whole)
    assert len(climb["steps"]) >= 2
    # Ever less of the model, trained each time; a layer may be more than a step was to take.
    steps = [load_folder(whole / "recover" / f"step-{number}") for number in range(len(climb["steps"]))]
    students = [*steps, load_folder(whole / "recover" / "rung-0" / "model")]
    sizes = [sum(each.numel() for each in student.parameters()) for student in students]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) >= 3
    assert anatomy_of(students[-1]).full_shape().within(anatomy_of(students[0]).full_shape())

    kills = 0
    while True:
        try:
            recover.recover(Run(spec, killed, Recorder(stop_after=(kills + 1) * recorder.checks // 5)))
            break
        except Stopped:
            kills += 1
    assert kills >= 2
    assert _structures(_climb(killed)) == _structures(climb)
    again = load_folder(killed / "recover" / "rung-0" / "model").state_dict()
    for name, value in students[-1].state_dict().items():
        assert torch.equal(value, again[name]), name


def _searched(spec: JobSpec, folder: Path) -> None:
    run = Run(spec, folder, SilentReporter())
    do_stages(run, STAGES[: STAGES.index("recover")])


def _climb(workdir: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((workdir / "recover" / "climb.json").read_text())
    return document


def _structures(climb: dict[str, Any]) -> list[Any]:
    recipes = [*climb["steps"], *(rung["recipe"] for rung in climb["rungs"])]
    return [recipe["steps"] for recipe in recipes]
