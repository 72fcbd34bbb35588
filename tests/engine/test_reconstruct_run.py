"""A real job without training: every estimator reported, the weights solved anew, and the recipe replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.spec import ESTIMATORS, JobSpec, Reconstruct
from tests.engine.runs import Recorder, tiny_sources, tiny_spec
from worker.engine.export.safetensors import load_folder
from worker.engine.pipeline import RunResult, run
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.reconstruct import replayed

pytestmark = pytest.mark.slow

Finished = tuple[JobSpec, RunResult, Recorder, Path]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    spec = tiny_spec(
        tiny_sources(tmp_path_factory.mktemp("sources")),
        recovery="reconstruct",
        approximations=["prune_heads", "prune_weight_groups"],
        constraints={"size": {"min_reduction": 1.3}},
        significance={"drives": "reconstruction"},
    )
    recorder, workdir = Recorder(), tmp_path_factory.mktemp("run")
    return spec, run(spec, workdir, recorder), recorder, workdir


def test_the_recipe_says_that_weights_were_solved_anew(finished: Finished) -> None:
    steps = finished[1].certificate.recipe.steps
    solved = [step for step in steps if isinstance(step, Reconstruct)]
    assert len(solved) == 1
    assert solved[0].rows > 100
    assert not [step for step in steps if step.approximation == "recover"]


def test_the_recipe_gives_the_delivered_weights_again(finished: Finished) -> None:
    spec, result, _, workdir = finished
    again = replayed(Run(spec, workdir, SilentReporter()), result.certificate.recipe).state_dict()
    delivered = load_folder(workdir / "export" / "optimized" / "safetensors").state_dict()
    assert again.keys() == delivered.keys()
    for name, weight in delivered.items():
        torch.testing.assert_close(again[name], weight, rtol=0.0, atol=1e-6)


def test_every_estimator_is_reported_beside_exact_ablation(finished: Finished) -> None:
    report: dict[str, Any] = json.loads((finished[3] / "analyse" / "significance.json").read_text())
    assert set(report["estimators"]) == set(ESTIMATORS)
    assert report["drives"] == "reconstruction"
    others = set(ESTIMATORS) - {"ablation"}
    for element in report["elements"]:
        assert set(element["estimates"]) == others
        assert element["estimates"]["fisher"] == element["fisher"]
    for name, told in report["estimators"].items():
        assert told["seconds"] > 0
        assert told["token_layers"] > 0
        if name in others:
            assert {"layer", "attention", "ffn", "head", "group", "all"} == set(told["agreement"])
            assert told["agreement"]["all"]["spearman"] > 0
    whole = report["rows"] * len(report["elements"]) * 3  # passes of three layers, if a row had one token
    assert report["estimators"]["ablation"]["token_layers"] > whole / 3
