"""The bench of learned masks: what it asks of each contender, what it keeps, and one row for real."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import learned, quality
from bench.learned import CONTENDERS, FOCUSES, KEY, Case, curves, spec_of, training_seconds, wall_clock
from bench.quality import Dense
from bench.record import Rows
from models.spec import JobSpec
from tests.engine.runs import tiny_sources

CASE = Case("trec", 0, "magnitude", "size", 0.4, minutes=10.0)


def row(**changes: Any) -> dict[str, Any]:
    """A row with these fields."""
    known = {
        "task": "trec",
        "seed": 0,
        "contender": "axformer",
        "focus": "size",
        "sparsity": 0.4,
        "parameters_kept": 0.6,
        "speedup": 1.5,
        "retention": 0.98,
        "minutes": 9.0,
        "budget_minutes": 10.0,
        "training_seconds": 77.0,
        "stage_seconds": {"search": 40.0},
        "met": True,
    }
    return known | changes


@pytest.fixture
def dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dense:
    """A task on the tiny model and data, which is not fine-tuned yet."""
    sources = tiny_sources(tmp_path)
    data, model = Path(sources["dataset"]["path"]), Path(sources["base_model"]["path"])
    monkeypatch.setattr(quality, "base_model", lambda: model)
    for module in (quality, learned):
        monkeypatch.setattr(module, "data_folder", lambda name: data)
    return Dense("banking77", 0, tmp_path / "cache")


@pytest.mark.parametrize("focus", FOCUSES)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_every_contender_is_asked_for_the_same(
    dense: Dense, contender: str, focus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finished:
        dense_folder = Path("model")

    monkeypatch.setattr(dense, "run", Finished)
    case = Case("banking77", 0, contender, focus, 0.5, minutes=7.0)
    spec = JobSpec.model_validate(spec_of(case, dense))
    asked = spec.constraints.size.min_reduction if focus == "size" else spec.constraints.speed.min_speedup
    assert asked == pytest.approx(2.0)
    assert spec.strategy == (contender if contender not in ("magnitude", "fisher") else "axformer")
    assert spec.focus == focus
    assert spec.base_model.path == "model"
    assert spec.fine_tune is False
    assert "quantize" not in spec.approximations
    assert {"prune_heads", "prune_weight_groups", "prune_hidden"} <= set(spec.approximations)
    assert spec.budget.max_minutes == 7.0


def test_plain_contenders_train_as_long_as_the_search_has_recovered(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "learned.json", KEY)
    assert training_seconds(CASE, rows) == pytest.approx(0.4 * 0.65 * 600)
    rows.keep(row(budget_minutes=20.0))
    assert training_seconds(CASE, rows) == pytest.approx(0.4 * 0.65 * 600), "that was of another budget"
    rows.keep(row(sparsity=0.5))
    assert training_seconds(CASE, rows) == pytest.approx(0.4 * 0.65 * 600), "and that of another sparsity"
    rows.keep(row())
    assert training_seconds(CASE, rows) == 77.0


def test_rows_are_kept_in_the_place_of_their_like(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    rows = Rows(file, KEY)
    assert rows.find(CASE.key) is None
    rows.keep(row(contender="magnitude", speedup=1.0))
    rows.keep(row(contender="fisher"))
    rows.keep(row(contender="magnitude", speedup=2.0))
    assert [each["contender"] for each in rows.all()] == ["fisher", "magnitude"]
    found = Rows(file, KEY).find(CASE.key)
    assert found is not None
    assert found["speedup"] == 2.0
    machines = json.loads(file.read_text())["machines"]
    assert machines[found["machine"]]["versions"]["torch"]


def test_curves_are_medians_over_the_seeds() -> None:
    rows = [row(seed=seed, retention=kept, met=kept > 0.9) for seed, kept in enumerate((0.9, 0.99, 0.95))]
    rows += [row(sparsity=0.2, parameters_kept=0.8), row(contender="fisher", task="sst2")]
    found = curves(rows)
    assert {task: list(each) for task, each in found.items()} == {"sst2": ["fisher"], "trec": ["axformer"]}
    first, second = found["trec"]["axformer"]
    assert (first["sparsity"], first["seeds"], first["parameters_kept"]) == (0.2, 1, 0.8)
    assert (second["retention"], second["seeds"], second["met"]) == (0.95, 3, 2)
    lines = learned.table(rows).splitlines()
    assert "| trec | axformer | size | 0.4 | 3 | 60.0% | 1.50x | 95.00% | 2 of 3 |" in lines


def test_the_wall_clock_is_that_of_the_same_question() -> None:
    slow = row(contender="vtrans", minutes=10.0, stage_seconds={"search": 100.0})
    fast = row(contender="faster-vtrans", minutes=4.0, stage_seconds={"search": 5.0})
    assert wall_clock([slow, fast | {"sparsity": 0.5}, fast | {"seed": 1}]) == []
    (found,) = wall_clock([slow, fast])
    assert found["minutes"] == [10.0, 4.0]
    assert found["search_times_faster"] == 20.0


@pytest.mark.slow
def test_a_row_is_measured_once(dense: Dense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "learned.json"
    command = [
        "--tasks",
        "banking77",
        "--contenders",
        "magnitude",
        "--sparsities",
        "0.15",
        "--minutes",
        "0.5",
    ]
    places = ["--results", str(results), "--cache", str(tmp_path / "cache"), "--dense-minutes", "0.2"]
    monkeypatch.setattr(sys, "argv", ["learned", *command, *places])
    monkeypatch.setattr(learned, "training_seconds", lambda case, rows: 1.0)
    assert learned.main() == 0
    held = json.loads(results.read_text())
    (told,) = held["rows"]
    assert (told["task"], told["contender"], told["strategy"]) == ("banking77", "magnitude", None)
    assert 0.3 < told["parameters_kept"] < 0.9
    assert told["retention"] == pytest.approx(told["optimized_metric"] / told["dense_metric"])
    assert told["training_seconds"] > 0
    assert set(told["stage_seconds"]) >= {"analyse", "search", "recover", "certify"}
    assert held["curves"]["banking77"]["magnitude"][0]["sparsity"] == 0.15
    monkeypatch.setattr(learned, "measured", lambda *given: pytest.fail("the row is there"))
    assert learned.main() == 0
