from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from sklearn.metrics import f1_score

from models.spec import Certificate, JobSpec, PruneLayers, Recipe
from tests.engine.measure.graphs import scorer, token_rows, write_classifier
from worker.engine.errors import Stopped
from worker.engine.measure.certificate import CertifiedModel, CertifyInputs, Holdout, certify
from worker.engine.measure.errors import MeasurementError
from worker.engine.measure.files import exported_files, loaded_bytes
from worker.engine.measure.machine import describe
from worker.engine.measure.probing import ModelFile
from worker.engine.measure.table import comparison_rows, constraint_rows
from worker.engine.reporting import SilentReporter

KEYS = {
    *("dense", "optimized", "ratios", "constraints", "constraints_met", "verdict", "loadable", "device"),
    *("runtime", "versions", "seed", "spec_digest", "artifacts"),
}
MODEL_KEYS = {"metric", "latency_ms", "throughput", "size_bytes", "parameters", "macs"}


def spec(metric: str = "accuracy", **constraints: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "base_model": {"path": "base"},
            "dataset": {"path": "data"},
            "metric": metric,
            "constraints": constraints,
            "target": {"threads": 1, "batch_size": 2},
            "seed": 7,
        }
    )


def predictions(model: Path, rows: list[list[int]]) -> np.ndarray:
    session = ort.InferenceSession(model)
    feeds = [
        {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)} for row in rows
    ]
    return np.array([int(session.run(["logits"], feed)[0].argmax()) for feed in feeds])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    (folder / "onnx").mkdir()
    write_classifier(folder / "dense.onnx", products=40, width=128)
    write_classifier(folder / "onnx" / "model.onnx", products=4, width=64, seed=1)
    (folder / "config.json").write_text("{}")
    return folder


def inputs(folder: Path, job: JobSpec, **changes: Any) -> CertifyInputs:
    """The dense model is right on every row but three: the labels are its own predictions."""
    rows = token_rows(60)
    labels = predictions(folder / "dense.onnx", rows)
    labels[:3] = (labels[:3] + 1) % 3
    given = {
        "spec": job,
        "recipe": Recipe(steps=(PruneLayers(layers=(1,)),)),
        "dense": CertifiedModel(ModelFile(folder / "dense.onnx"), parameters=1000, macs=400),
        "optimized": CertifiedModel(ModelFile(folder / "onnx" / "model.onnx"), parameters=100, macs=40),
        "holdout": Holdout(rows, scorer(rows, labels, job.metric)),
        "artifacts": exported_files(folder),
        "loadable": "onnx",
        **changes,
    }
    return CertifyInputs(**given)


@pytest.fixture(scope="module")
def certified(folder: Path) -> tuple[CertifyInputs, Certificate]:
    job = spec(accuracy={"max_relative_drop": 0.01}, size={"min_reduction": 5.0}, speed={"min_speedup": 1.2})
    given = inputs(folder, job)
    return given, certify(given, seconds=2.0).certificate


def test_the_keys_are_the_promised_ones(certified: tuple[CertifyInputs, Certificate]) -> None:
    document = certified[1].model_dump(mode="json")
    assert document.keys() >= KEYS
    assert document["dense"].keys() == document["optimized"].keys() == MODEL_KEYS
    assert document["ratios"].keys() == {
        *("speedup", "size_reduction", "relative_drop", "relative_drop_interval")
    }
    assert document["constraints"][0].keys() == {"name", "required", "measured", "met"}
    assert Certificate.model_validate(document) == certified[1]


def test_numbers_are_those_of_the_files(certified: tuple[CertifyInputs, Certificate], folder: Path) -> None:
    given, certificate = certified
    holdout = given.holdout
    right = predictions(folder / "onnx" / "model.onnx", token_rows(60)) == holdout.scorer.split.labels
    assert certificate.dense.metric.value == pytest.approx(57 / 60)
    assert certificate.optimized.metric.value == pytest.approx(right.mean())
    assert certificate.ratios.relative_drop == pytest.approx(1 - right.mean() / (57 / 60))
    low, high = certificate.ratios.relative_drop_interval
    assert low < certificate.ratios.relative_drop < high
    assert certificate.dense.size_bytes == (folder / "dense.onnx").stat().st_size
    assert certificate.ratios.size_reduction == pytest.approx(
        (folder / "dense.onnx").stat().st_size / (folder / "onnx" / "model.onnx").stat().st_size
    )
    assert certificate.ratios.speedup > 1.2
    assert certificate.dense.latency_ms.p95 >= certificate.dense.latency_ms.p50
    assert certificate.holdout_rows == 60
    assert certificate.spread["speedup"] >= 0
    assert certificate.seed == 7
    assert certificate.spec_digest == given.spec.digest()
    assert {"python", "torch", "transformers", "onnxruntime", "onnx", "numpy"} <= certificate.versions.keys()
    assert "1 threads" in certificate.device


def test_digests_are_those_of_the_files(certified: tuple[CertifyInputs, Certificate], folder: Path) -> None:
    artifacts = certified[1].artifacts
    assert artifacts.keys() == {"config.json", "dense.onnx", "onnx/model.onnx"}
    for name, digest in artifacts.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_one_unmet_constraint_and_the_whole_is_not_met(
    certified: tuple[CertifyInputs, Certificate],
) -> None:
    certificate = certified[1]
    assert {result.name: result.met for result in certificate.constraints} == {
        "accuracy.max_relative_drop": False,
        "size.min_reduction": True,
        "speed.min_speedup": True,
    }
    assert not certificate.constraints_met
    assert certificate.verdict == "best_effort"


def test_the_table_shows_what_was_measured(certified: tuple[CertifyInputs, Certificate]) -> None:
    certificate = certified[1]
    rows = {row.label: row for row in comparison_rows(certificate)}
    assert rows["accuracy"].dense == "0.9500"
    assert rows["accuracy"].ratio.startswith(f"{-certificate.ratios.relative_drop:+.2%}")
    assert rows["parameters, M"].ratio == "10.00x fewer"
    assert rows["latency p50, ms"].ratio == f"{certificate.ratios.speedup:.2f}x faster"
    assert [row[3] for row in constraint_rows(certificate)] == ["not met", "met", "met"]


def test_another_metric_goes_through_the_task_s_function(folder: Path) -> None:
    job = spec("f1", accuracy={"min": 0.0}, speed={"min_speedup": 100.0})
    given = inputs(folder, job, proved_infeasible=True)
    issued = certify(given, seconds=0.5)
    answered = predictions(folder / "dense.onnx", token_rows(60))
    labels = given.holdout.scorer.split.labels
    assert issued.certificate.dense.metric.name == "f1"
    assert issued.certificate.dense.metric.value == pytest.approx(f1_score(labels, answered, average="macro"))
    assert issued.certificate.verdict == "infeasible"
    assert any("predicted, not measured" in note for note in issued.certificate.notes)
    assert issued.dense_logits.argmax(axis=1).tolist() == answered.tolist()


def test_logits_that_are_no_numbers_are_not_certified(folder: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(folder / "onnx" / "model.onnx")
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
    head.CopyFrom(onnx.numpy_helper.from_array(np.full((64, 3), np.nan, np.float32), "head"))
    onnx.save(model, tmp_path / "nan.onnx")
    broken = CertifiedModel(ModelFile(tmp_path / "nan.onnx"), parameters=1, macs=1)
    with pytest.raises(MeasurementError, match="not numbers"):
        certify(inputs(folder, spec(), optimized=broken))


def test_a_missing_export_is_a_typed_error(folder: Path) -> None:
    gone = CertifiedModel(ModelFile(folder / "gone.onnx"), parameters=1, macs=1)
    with pytest.raises(MeasurementError, match=r"gone\.onnx"):
        certify(inputs(folder, spec(), optimized=gone))


def test_a_cancelled_run_is_left(folder: Path) -> None:
    class Cancelled(SilentReporter):
        def check(self) -> None:
            raise Stopped

    with pytest.raises(Stopped):
        certify(inputs(folder, spec()), Cancelled())


def test_size_counts_external_data_and_weights_only(folder: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(folder / "dense.onnx")
    onnx.save(
        model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "tokenizer.json").write_text("x" * 1000)
    expected = sum((tmp_path / name).stat().st_size for name in ("model.onnx", "weights.bin"))
    assert loaded_bytes(ModelFile(tmp_path / "model.onnx")) == expected
    (tmp_path / "model.safetensors").write_bytes(b"x" * 77)
    assert loaded_bytes(ModelFile(tmp_path, "torch")) == 77
    with pytest.raises(MeasurementError, match="no weights"):
        loaded_bytes(ModelFile(folder, "torch"))


def test_the_machine_is_described() -> None:
    host = describe(threads=3)
    assert host.threads == 3
    assert host.cores >= 1
    assert host.memory_bytes > 1e8
    assert host.processor in host.device
