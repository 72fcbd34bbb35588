"""When matrices get another precision than the rest, and which."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from models.spec import JobSpec, Quantize, Recipe
from tests.engine.stages.crews import spec_of
from worker.engine.delivery import Delivered, deliver
from worker.engine.measure.probing import ModelFile
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages import precision
from worker.engine.stages.precision import mixed_precision, plain_precision

NAMES = [f"layer.{layer}.ffn.{side}" for layer in range(4) for side in ("input", "output")]
BOUNDED = {"accuracy": {"max_absolute_drop": 0.04}}


ROWS = 1000


class Share:
    """The score is the share of right rows; of a row the only logit says whether it is right."""

    def marks(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0] > 0

    def right(self, marks: np.ndarray) -> np.ndarray:
        return marks


def form(metric: float, *, size: int = 300, first: int = 0, **step: Any) -> Delivered:
    """The rows from `first` on are right, as many as the metric says."""
    recipe = Recipe(steps=(Quantize(**step),)) if step else Recipe()
    logits = np.zeros((ROWS, 1), np.float32)
    logits[first : first + round(metric * ROWS)] = 1.0
    return Delivered(recipe, ModelFile(Path("model")), size, logits, metric)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Quantize]:
    """The steps of the files that were tried; a matrix in w4a8 costs 0.01, one kept in fp16 brings 0.03."""
    steps: list[Quantize] = []

    def fake(run: Run, model: object, recipe: Recipe, folder: Path, origin: object) -> Delivered:
        step = recipe.steps[0]
        assert isinstance(step, Quantize)
        steps.append(step)
        forms = [step.matrices.get(name, step.weights) for name in NAMES]
        metric = 0.8 + 0.03 * forms.count("fp16") - 0.01 * forms.count("w4a8")
        return form(metric, size=300 - 10 * forms.count("w4a8"), **step.model_dump(exclude={"approximation"}))

    monkeypatch.setattr(precision, "deliver", fake)
    monkeypatch.setattr(precision, "_by_significance", lambda run, form: NAMES)
    return steps


def run_of(tmp_path: Path, **spec: Any) -> Run:
    document = {"base_model": {"path": "m"}, "dataset": {"path": "d"}, **spec}
    dense = SimpleNamespace(anatomy=SimpleNamespace(model=None), scorer=Share())
    workspace = SimpleNamespace(folder=lambda stage: tmp_path)
    run = SimpleNamespace(
        spec=JobSpec.model_validate(document),
        asked=JobSpec.model_validate(document),
        dense=dense,
        workspace=workspace,
        bounds_speed="min_speedup" in str(spec),
    )
    return cast(Run, run)


def test_nothing_is_tried_where_int8_is_free_and_small_enough(tried: list[Quantize], tmp_path: Path) -> None:
    forms = {"dense": form(0.8, size=1000), "dense-int8": form(0.79, weights="int8")}
    assert mixed_precision(run_of(tmp_path, constraints=BOUNDED), "dense-int8", forms) == {}
    assert mixed_precision(run_of(tmp_path, focus="size"), "dense", {"dense": form(0.8)}) == {}
    assert tried == []


def test_the_most_significant_are_kept_where_int8_costs_too_much(
    tried: list[Quantize], tmp_path: Path
) -> None:
    forms = {"dense": form(0.87, size=1000), "dense-int8": form(0.80, weights="int8", embeddings="int4")}
    found = mixed_precision(run_of(tmp_path, constraints=BOUNDED), "dense-int8", forms)
    assert [step.matrices for step in tried] == [
        {NAMES[-1]: "fp16"},
        {NAMES[-2]: "fp16", NAMES[-1]: "fp16"},
    ]
    assert list(found) == ["dense-int8-fp16-25"]
    assert all(step.embeddings == "int4" for step in tried)


def test_no_layer_pays_for_what_chance_makes_of_equal_files(tried: list[Quantize], tmp_path: Path) -> None:
    constraints = {"accuracy": {"max_relative_drop": 0.005}, "speed": {"min_speedup": 3}}
    run = run_of(tmp_path, constraints=constraints, recovery="off", focus="speed")
    dense = form(0.870, size=1000)
    # 60 rows lost and 50 gained, or 10 lost and none gained: the same drop of a hundredth.
    by_chance, surely = (form(0.860, first=each, weights="int8") for each in (60, 0))
    assert mixed_precision(run, "dense-int8", {"dense": dense, "dense-int8": by_chance}) == {}
    assert tried == []
    mixed_precision(run, "dense-int8", {"dense": dense, "dense-int8": surely})
    assert len(tried) == 2


@pytest.mark.parametrize(
    ("bounds", "in_fp16"),
    [({"speed": {"min_speedup": 3}}, 0), ({"size": {"min_reduction": 5}}, 0), ({}, 2)],
)
def test_no_layer_pays_for_what_training_brings_back(
    bounds: dict[str, Any], in_fp16: int, tried: list[Quantize], tmp_path: Path
) -> None:
    run = run_of(tmp_path, constraints={"accuracy": {"max_relative_drop": 0.005}, **bounds}, focus="speed")
    forms = {"dense": form(0.870, size=1000), "dense-int8": form(0.860, weights="int8")}
    mixed_precision(run, "dense-int8", forms)
    assert len([step for step in tried if "fp16" in step.matrices.values()]) == in_fp16


def test_int4_words_are_turned_down_where_they_surely_lose(tmp_path: Path) -> None:
    run = run_of(tmp_path, constraints={"accuracy": {"max_relative_drop": 0.005}})
    forms = {"dense": form(0.87, size=1000), "dense-int8": form(0.87, weights="int8")}
    for first, chosen in ((60, "dense-int8-int4"), (0, "dense-int8")):
        int4 = form(0.860, first=first, weights="int8", embeddings="int4")
        assert plain_precision(run, forms | {"dense-int8-int4": int4}) == chosen
    assert plain_precision(run, {"dense": forms["dense"]}) == "dense"


SMALL = {"size": {"min_reduction": 5.0}}


@pytest.mark.parametrize(
    ("drop", "tried_in_4_bits", "found"),
    [(0.4, [8], "dense-int8-w4a8"), (0.2, [8, 4], "dense-int8-w4a8-50"), (0.04, [8, 4], None)],
)
def test_weights_are_stored_in_4_bits_for_size(
    drop: float, tried_in_4_bits: list[int], found: str | None, tried: list[Quantize], tmp_path: Path
) -> None:
    constraints = {"accuracy": {"max_absolute_drop": drop}, "speed": {"min_speedup": 3.0}, **SMALL}
    forms = {"dense": form(0.8, size=1000), "dense-int8": form(0.8, weights="int8", embeddings="int4")}
    mixed = mixed_precision(run_of(tmp_path, constraints=constraints), "dense-int8", forms)
    in_4_bits = [[name for name in NAMES if _of(step, name) == "w4a8"] for step in tried]
    assert [len(names) for names in in_4_bits] == tried_in_4_bits
    assert in_4_bits[-1] == NAMES[: tried_in_4_bits[-1]]
    assert list(mixed) == ([found] if found else [])
    assert all(step.embeddings == "int4" for step in tried)


def _of(step: Quantize, name: str) -> str:
    return step.matrices.get(name, step.weights)


def test_4_bits_are_not_turned_down_by_chance(
    tried: list[Quantize], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constraints = {"accuracy": {"max_relative_drop": 0.005}, **SMALL}
    forms = {"dense": form(0.8, size=1000), "dense-int8": form(0.8, weights="int8")}
    for first, found in ((60, ["dense-int8-w4a8"]), (0, [])):
        stored = form(0.79, size=200, first=first, weights="w4a8")
        monkeypatch.setattr(precision, "deliver", lambda *given, stored=stored: stored)
        assert list(mixed_precision(run_of(tmp_path, constraints=constraints), "dense-int8", forms)) == found
    monkeypatch.setattr(precision, "deliver", lambda *given: form(0.8, size=300, weights="w4a8"))
    no_smaller = mixed_precision(run_of(tmp_path, constraints=constraints), "dense-int8", forms)
    assert no_smaller == {}


def test_4_bits_are_not_tried_where_size_does_not_matter(tried: list[Quantize], tmp_path: Path) -> None:
    forms = {"dense": form(0.8, size=1000), "dense-int8": form(0.8, weights="int8")}
    bounds = {**BOUNDED, "speed": {"min_speedup": 2.0}}
    run = run_of(tmp_path, focus="speed", constraints=bounds)
    assert mixed_precision(run, "dense-int8", forms) == {}
    assert tried == []


def test_a_real_run_weighs_its_matrices_and_delivers_a_smaller_file(
    finished: Path, sources: dict[str, Any], tmp_path: Path
) -> None:
    given = spec_of(sources, 1)
    run = Run(given, finished, SilentReporter())
    run.spec = given.model_copy(update={"focus": "size"})
    dense = deliver(run, run.dense.anatomy.model, Recipe(), tmp_path / "dense", run.dense)
    step = Recipe(steps=(Quantize(),))
    int8 = deliver(run, run.dense.anatomy.model, step, tmp_path / "int8", run.dense)
    run.spec = run.spec.model_copy(
        update={"constraints": run.spec.constraints.model_validate({"accuracy": {"max_relative_drop": 0.9}})}
    )
    found = mixed_precision(run, "dense-int8", {"dense": dense, "dense-int8": int8})
    (name,) = found
    assert name == "dense-int8-w4a8"
    mixed = found[name]
    assert mixed.recipe.quantization() == Quantize(weights="w4a8")
    assert mixed.size_bytes < int8.size_bytes
