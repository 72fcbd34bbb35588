"""Specs of the quality bench's jobs, what it keeps, and how predictions are held against certificates."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import prediction, quality
from bench.quality import Asked, Dense, table
from bench.quality_tasks import QUALITY_TASKS
from models.spec import JobSpec

CHANGES = {
    "axforge": quality.all_at_once,
    "hard": quality._at(4.0, 14.0),
    "accuracy": quality._accuracy,
    "far": quality._far,
    "retraining-free": quality._retraining_free,
}


@pytest.mark.parametrize("task", QUALITY_TASKS)
@pytest.mark.parametrize("contender", CHANGES)
def test_every_job_is_a_spec(
    task: str, contender: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(quality, "data_folder", lambda name: tmp_path / name)
    dense = cast(
        Dense,
        SimpleNamespace(
            name=task,
            task=QUALITY_TASKS[task],
            seed=3,
            run=lambda: SimpleNamespace(dense_folder=tmp_path / "dense"),
        ),
    )
    asked = Asked(minutes=7.0, speedup=3.5)
    spec = JobSpec.model_validate(quality.spec_of(dense, asked, CHANGES[contender]))
    assert (spec.seed, spec.fine_tune, spec.base_model.path) == (3, False, str(tmp_path / "dense"))
    free = contender == "retraining-free"
    assert spec.budget.max_minutes == (quality.FREE_MINUTES if free else 7.0)
    assert spec.dataset.max_train_rows == (
        quality.FREE_ROWS if free else QUALITY_TASKS[task].dataset.get("max_train_rows")
    )
    if contender == "axforge":
        assert spec.constraints.speed.min_speedup == 3.5
        assert spec.constraints.size.min_reduction == QUALITY_TASKS[task].size_reduction
    if contender == "hard":
        assert spec.constraints.speed.min_speedup == 4.0
        assert spec.constraints.size.min_reduction == 14.0


def row(seed: int, speedup: float, predicted: dict[str, float] | None) -> dict[str, Any]:
    return {
        "task": "trec",
        "seed": seed,
        "contender": "axforge",
        "relative_drop": 0.01 * seed,
        "speedup": speedup,
        "size_reduction": 8.0,
        "met": seed > 0,
        "predicted": predicted,
    }


ROWS = [
    row(0, 3.0, {"speedup": 3.2, "size_reduction": 8.0}),
    row(1, 5.0, {"speedup": 4.0, "size_reduction": 8.4}),
    row(2, 4.0, None),
]


def test_seeds_are_told_by_their_medians() -> None:
    last = table(ROWS).splitlines()[-1]
    assert last == "| trec | axforge | 3 | +1.00% | 4.00x | 8.00x | 2 of 3 |"


def test_predictions_are_held_against_what_was_certified() -> None:
    rows = prediction.of_quality({"rows": ROWS})
    assert [each["job"] for each in rows] == ["trec, axforge, seed 0", "trec, axforge, seed 1"]
    assert rows[0]["speedup"]["error"] == pytest.approx(3.2 / 3.0 - 1.0)
    told = prediction.within(rows)
    assert told["within"] == {"speedup": 1, "size_reduction": 1}
    assert told["largest_error"]["speedup"] == pytest.approx(0.2)
    assert "1 of 2 within 10%" in prediction.table(rows)
    assert prediction.within([])["largest_error"] == {"speedup": None, "size_reduction": None}


def test_of_the_main_bench_only_jobs_with_a_prediction_count() -> None:
    ratios = {"speedup": 3.0, "size_reduction": 5.0}
    job = {"certificate": {"ratios": ratios}}
    document = {
        "trec": {"axforge": job | {"predicted": {"speedup": 3.0, "size_reduction": 5.1}}},
        "sst2": {"axforge": job},
    }
    (told,) = prediction.of_main(document)
    assert told["job"] == "trec, main"
    assert told["size_reduction"]["error"] == pytest.approx(0.02)
