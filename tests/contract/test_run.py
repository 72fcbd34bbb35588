"""`make contract` covers what the registries hold, goes on after a stop, and tells what fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.spec import Recipe
from tests.contract import pairs, run
from worker.engine.anatomy import Anatomy, supported_architectures
from worker.engine.anatomy.heads import AUTO_CLASSES
from worker.engine.approximations import STRUCTURAL


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run, "KEPT", tmp_path / "contract")
    monkeypatch.setattr(run, "RESULT", tmp_path / "contract.json")
    return tmp_path


def test_every_architecture_head_and_approximation_has_its_share() -> None:
    made = [pairs.pair_of(seed) for seed in range(600)]
    assert {pair.architecture for pair in made} == set(supported_architectures())
    assert {pair.head for pair in made} == set(AUTO_CLASSES)
    assert {step.approximation for pair in made for step in pair.recipe.steps} == set(STRUCTURAL)
    assert made == [pairs.pair_of(seed) for seed in range(600)]


def test_outcomes_are_kept_and_shared_by_ranges(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--pairs", "3"]) == 0
    (log,) = (kept / "contract").rglob("*.jsonl")
    with log.open("a", encoding="utf-8") as cut:
        cut.write('{"outcome": {"se')  # by a kill
    capsys.readouterr()
    assert run.main(["--pairs", "4", "--write"]) == 0
    assert "3 known, 1 to run" in capsys.readouterr().out
    document = json.loads((kept / "contract.json").read_text(encoding="utf-8"))
    assert document["pairs"] == 4
    assert document["seeds"] == [0, 3]
    assert sum(told["pairs"] for told in document["architectures"].values()) == 4
    assert 0 <= document["largest_difference"] <= document["tolerance"]


def test_a_model_that_breaks_the_law_is_told_with_its_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def nothing(self: Anatomy, shape: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(Anatomy, "masked", nothing)
    changing = next(seed for seed in range(50) if _keeps_its_rows(pairs.pair_of(seed).recipe))
    assert run.main(["--first", str(changing), "--pairs", "1", "--again"]) == 1
    told = capsys.readouterr().out
    assert f"seed {changing} FAILED" in told
    assert "sliced differs by" in told
    assert "prune_" in told
    assert run.main(["--seed", str(changing)]) == 1


def _keeps_its_rows(recipe: Recipe) -> bool:
    """Whether it changes much, but not how many words a language model answers with."""
    names = {step.approximation for step in recipe.steps}
    return len(recipe.steps) > 4 and "prune_vocabulary" not in names


@pytest.mark.parametrize("seed", [1907, 1925])
def test_weights_are_drawn_again_where_they_leave_no_sign_clear(seed: int) -> None:
    """Of one dimension of a Llama, and of keys of padding, it is the weights alone that decide."""
    outcome = pairs.judged(pairs.pair_of(seed))
    assert outcome.failure == ""
    assert outcome.differences["onnx"] <= pairs.TOLERANCE
