"""The whole run, for real, on a tiny model: certificate, resuming, the untouched holdout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.spec import Recipe
from tests.engine.runs import TEST_ROWS, Recorder, tiny_sources, tiny_spec
from worker.engine.errors import EngineError, Stopped
from worker.engine.pipeline import RunResult, run
from worker.engine.prepare import PreparedData
from worker.engine.reporting import STAGES
from worker.engine.stages import certify


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Latency tables are measured once for all runs of this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AXFORGE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def finished(
    sources: dict[str, Any], cache: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunResult, Recorder, Path]:
    """A run that nobody disturbed."""
    workdir, recorder = tmp_path_factory.mktemp("finished"), Recorder()
    return run(tiny_spec(sources), workdir, recorder), recorder, workdir


def test_every_stage_is_told_in_order(finished: tuple[RunResult, Recorder, Path]) -> None:
    assert finished[1].stages == list(STAGES)


def test_the_certificate_judges_what_was_asked(finished: tuple[RunResult, Recorder, Path]) -> None:
    certificate = finished[0].certificate
    assert {result.name for result in certificate.constraints} == {"size.min_reduction"}
    assert certificate.constraints_met
    assert certificate.verdict == "met"
    assert certificate.holdout_rows == TEST_ROWS
    assert certificate.ratios.size_reduction >= 3.4
    assert certificate.optimized.parameters < certificate.dense.parameters


def test_every_artifact_is_there_and_has_the_digest_that_was_certified(
    finished: tuple[RunResult, Recorder, Path],
) -> None:
    import hashlib

    result = finished[0]
    names = {artifact.name: artifact.path for artifact in result.artifacts}
    assert {
        *["certificate.json", "significance.json", "onnx/model.onnx", "onnx/tokenizer.json"],
        *["onnx/README.md", "safetensors/model.safetensors", "safetensors/config.json"],
    } <= set(names)
    for name, digest in result.certificate.artifacts.items():
        assert hashlib.sha256(names[name].read_bytes()).hexdigest() == digest


def test_the_recipe_replays_to_the_certified_model(finished: tuple[RunResult, Recorder, Path]) -> None:
    from worker.engine.anatomy import anatomy_of
    from worker.engine.export import load_folder

    result, _, workdir = finished
    dense = anatomy_of(load_folder(workdir / "baseline" / "model"))
    shape = dense.shape(result.certificate.recipe)
    assert dense.parameters(shape) == result.certificate.optimized.parameters
    delivered = load_folder(workdir / "export" / "optimized" / "safetensors")
    assert anatomy_of(delivered).full_shape() == shape


def test_significance_covers_every_element(finished: tuple[RunResult, Recorder, Path]) -> None:
    report = json.loads((finished[2] / "analyse" / "significance.json").read_text())
    kinds = [element["kind"] for element in report["elements"]]
    # Three layers of four heads and eleven groups (of six channels, the last of four);
    # hidden dimensions go in blocks of the int4 embeddings.
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "layer": 3,
        "attention": 3,
        "ffn": 3,
        "head": 12,
        "group": 33,
        "hidden_group": 2,
    }
    for element in report["elements"]:
        assert {"loss_change", "fisher", "parameters", "macs", "milliseconds", "bytes"} <= set(element)
        assert element["parameters"] > 0


def test_candidates_are_numbered_without_gaps(finished: tuple[RunResult, Recorder, Path]) -> None:
    numbers = [candidate.number for candidate in finished[1].candidates]
    assert numbers == list(range(len(numbers)))
    assert {candidate.stage for candidate in finished[1].candidates} == {"baseline", "search", "recover"}


def test_a_run_stopped_again_and_again_ends_with_the_same_recipe(
    finished: tuple[RunResult, Recorder, Path], sources: dict[str, Any], tmp_path: Path
) -> None:
    whole, told, _ = finished
    allowance, heard = told.checks // 6, []
    result = None
    for _ in range(60):
        recorder = Recorder(stop_after=allowance)
        try:
            result = run(tiny_spec(sources), tmp_path, recorder)
        except Stopped:
            # What a stage has begun and not finished is done again: the next attempt gets further.
            allowance += told.checks // 6
        heard += recorder.candidates
        if result is not None:
            break
    assert result is not None
    assert _structure(result.certificate.recipe) == _structure(whole.certificate.recipe)
    assert {candidate.number for candidate in heard} == {c.number for c in told.candidates}


def test_a_finished_run_is_not_done_again(
    finished: tuple[RunResult, Recorder, Path], sources: dict[str, Any]
) -> None:
    result, _, workdir = finished
    again = Recorder()
    assert run(tiny_spec(sources), workdir, again) == result
    assert again.candidates == []


def test_another_spec_does_not_take_over_the_folder(
    finished: tuple[RunResult, Recorder, Path], sources: dict[str, Any]
) -> None:
    with pytest.raises(EngineError, match="another job spec"):
        run(tiny_spec(sources, seed=1), finished[2], Recorder())


def test_nothing_before_the_certificate_reads_the_holdout(
    sources: dict[str, Any], cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prepared holdout file is garbage from the end of prepare until certify begins."""
    poisoned: dict[str, bytes] = {}
    holdout = tmp_path / "prepare" / "data" / "holdout.parquet"

    class Poisoner(Recorder):
        def progress(
            self, stage: Any, step: int, total: int | None = None, message: str = "", **_: float
        ) -> None:
            super().progress(stage, step, total, message)
            if stage == "baseline" and not poisoned:
                poisoned["bytes"] = holdout.read_bytes()
                holdout.write_bytes(b"poison")
            if stage == "certify" and holdout.read_bytes() == b"poison":
                self.poisonous_at_certify = True
                holdout.write_bytes(poisoned["bytes"])

    poisoner = Poisoner()
    result = run(tiny_spec(sources, recovery="off"), tmp_path, poisoner)
    assert poisoner.poisonous_at_certify
    assert result.certificate.holdout_rows == TEST_ROWS


def test_the_holdout_is_opened_by_certify_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    callers = []
    for path in (Path(certify.__file__).parent.parent).rglob("*.py"):
        if ".holdout()" in path.read_text(encoding="utf-8"):
            callers.append(path.name)
    assert callers == ["certify.py"]
    assert hasattr(PreparedData, "holdout")


def _structure(recipe: Recipe) -> list[Any]:
    """The recipe without what training took, which depends on the time that was left."""
    return [step for step in recipe.steps if step.approximation != "recover"]
