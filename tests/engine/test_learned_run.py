"""Strategies that learn masks, in real runs on tiny models: bounds hold, weights go on, runs resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from models.spec import JobSpec, LearnMasks, Recipe
from tests.engine.learned.test_expected_cost import table
from tests.engine.runs import Recorder, tiny_sources, tiny_spec
from tests.engine.task_runs import task_spec
from worker.engine.anatomy import anatomy_of
from worker.engine.errors import Stopped
from worker.engine.export import load_folder
from worker.engine.learned import trainer
from worker.engine.pipeline import do_stages, run
from worker.engine.reporting import STAGES, SilentReporter, Stage
from worker.engine.run import Run
from worker.engine.stages import search
from worker.engine.stages.learning import exact_cost, learned_model, target_bound
from worker.engine.strategies.goal import MARGIN, Goal
from worker.engine.workspace import write_json

pytestmark = pytest.mark.slow

PRUNED = ["prune_layers", "prune_blocks", "prune_heads", "prune_weight_groups", "prune_hidden"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXFORGE_CACHE_DIR", str(tmp_path / "cache"))


def bert_spec(folder: Path, strategy: str, **changes: Any) -> JobSpec:
    given: dict[str, Any] = {
        "strategy": strategy,
        "approximations": PRUNED,
        "constraints": {"size": {"min_reduction": 1.5}},
        "learned": {"epochs": 30 if strategy != "vtrans" else 2, "data_fraction": 0.2},
        "target": {"threads": 1},
    }
    return tiny_spec(tiny_sources(folder), **given | changes)


def until(stage: Stage, spec: JobSpec, folder: Path) -> Run:
    done = Run(spec, folder, SilentReporter())
    do_stages(done, STAGES[: STAGES.index(stage)])
    return done


def searched(spec: JobSpec, folder: Path) -> tuple[Run, Recipe, Recorder]:
    """By an invented latency table: times of models as small as these are mostly the call's."""
    anatomy = until("search", spec, folder).anatomy
    write_json(folder / "analyse" / "latency_table.json", table(anatomy).to_json())
    recorder = Recorder()
    done = Run(spec, folder, recorder)
    done.workspace.finish("search", search.search(done))
    result = done.workspace.result("search")
    assert result is not None
    return done, Recipe.model_validate(result["recipe"]), recorder


def test_faster_vtrans_meets_a_bound_on_size_within_a_hundredth(tmp_path: Path) -> None:
    done, recipe, recorder = searched(bert_spec(tmp_path, "faster-vtrans"), tmp_path / "run")
    goal = Goal.of(done.spec.constraints, search.dense_reference(done), margin=MARGIN)
    assert goal.bytes is not None
    left = exact_cost(done, "bytes", done.shape(recipe)) / goal.bytes
    assert 0.99 <= left <= 1.0
    trained = [step for step in recipe.steps if isinstance(step, LearnMasks)]
    assert len(trained) == 1
    assert not trained[0].weights
    assert recorder.events == ["masks.trained"]
    assert recorder.candidates[-1].accepted
    assert len(recorder.candidates) >= 4
    # Its weights are the dense model's but for the means of the masks.
    learnt = learned_model(done)
    assert learnt is not None
    embeddings = [model.get_input_embeddings().weight for model in (learnt.load(), done.anatomy.model)]
    assert torch.equal(*embeddings)
    assert not (tmp_path / "run" / "search" / "learned" / "training.pt").exists()


def test_bounds_on_size_and_speed_hold_together(tmp_path: Path) -> None:
    spec = bert_spec(
        tmp_path,
        "faster-vtrans",
        constraints={"size": {"min_reduction": 1.2}, "speed": {"min_speedup": 1.5}},
        learned={"epochs": 15, "data_fraction": 0.2, "target": 0.3, "constraint": "flops"},
    )
    done, recipe, _ = searched(spec, tmp_path / "run")
    goal, shape = (
        Goal.of(done.spec.constraints, search.dense_reference(done), margin=MARGIN),
        done.shape(recipe),
    )
    target = target_bound(done)
    assert target is not None
    assert goal.ms is not None
    assert goal.bytes is not None
    left = [
        exact_cost(done, "ms", shape) / goal.ms,
        exact_cost(done, "bytes", shape) / goal.bytes,
        1.0 - target.room(exact_cost(done, "macs", shape)),
    ]
    assert 0.99 <= max(left) <= 1.0


@pytest.mark.parametrize(
    ("constraint", "cost"), [("parameters", "parameters"), ("flops", "macs"), ("latency", "ms")]
)
def test_every_kind_of_target_is_met_within_a_hundredth(tmp_path: Path, constraint: str, cost: str) -> None:
    spec = bert_spec(
        tmp_path,
        "faster-vtrans",
        constraints={},
        learned={"epochs": 15, "data_fraction": 0.2, "target": 0.35, "constraint": constraint},
    )
    done, recipe, _ = searched(spec, tmp_path / "run")
    bound = target_bound(done)
    assert bound is not None
    assert bound.cost == cost
    assert 0.0 <= bound.room(exact_cost(done, bound.cost, done.shape(recipe))) <= 0.01


@pytest.mark.parametrize("strategy", ["vtrans", "fast-vtrans", "faster-vtrans"])
def test_a_whole_run_is_certified(tmp_path: Path, strategy: str) -> None:
    spec = bert_spec(tmp_path, strategy)
    result = run(spec, tmp_path / "run", Recorder())
    assert result.certificate.constraints_met
    assert result.certificate.ratios.size_reduction >= 1.5
    rung = json.loads((tmp_path / "run" / "recover" / "done.json").read_text())
    assert "learn_masks" in [step["approximation"] for step in rung["recipe"]["steps"]]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("strategy", ["vtrans", "faster-vtrans"])
def test_language_models(tmp_path: Path, architecture: str, strategy: str) -> None:
    spec = task_spec(
        "causal-lm",
        tmp_path,
        architecture,
        strategy=strategy,
        constraints={"size": {"min_reduction": 1.4}},
        approximations=PRUNED,
        learned={"epochs": 6, "data_fraction": 0.3},
        budget={"max_minutes": 1.5},
    )
    result = run(spec, tmp_path / "run", Recorder())
    assert result.certificate.constraints_met
    assert result.certificate.ratios.size_reduction == pytest.approx(1.4, rel=0.04)


@pytest.mark.parametrize("strategy", ["fast-vtrans", "faster-vtrans"])
def test_a_killed_search_goes_on_to_the_same_recipe_and_weights(
    tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.5)
    spec = bert_spec(tmp_path, strategy, budget={"max_minutes": 6})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    until("search", spec, whole)
    shutil.copytree(whole, killed)
    recorder = Recorder()
    done = Run(spec, whole, recorder)
    expected = search.search(done)
    kills, found = 0, None
    while found is None:
        try:
            found = search.search(Run(spec, killed, Recorder(stop_after=recorder.checks // 4)))
        except Stopped:
            kills += 1
    assert kills >= 2
    assert found["recipe"] == expected["recipe"]
    assert found["candidates"] == expected["candidates"]
    models = [load_folder(folder / "search" / "learned" / "model").state_dict() for folder in (whole, killed)]
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]), name


def test_training_begins_with_the_weights_that_masks_were_trained_with(tmp_path: Path) -> None:
    """Without recovery what is delivered is the model that the search has judged."""
    spec = bert_spec(tmp_path, "faster-vtrans", recovery="off")
    _, recipe, recorder = searched(spec, tmp_path / "run")
    last = until("export", spec, tmp_path / "run")
    student = load_folder(tmp_path / "run" / "recover" / "rung-0" / "model")
    learnt = learned_model(last)
    assert learnt is not None
    anatomy = anatomy_of(learnt.load())
    assert anatomy.full_shape() == last.shape(Recipe())
    layer = anatomy_of(student).full_shape()
    assert layer == last.shape(recipe).normalised()
    assert recorder.candidates[-1].measurements.parameters == anatomy_of(student).parameters(layer)
