"""A real architecture through both runtimes: the folder in torch and the exported graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from models.spec import JobSpec, PruneLayers, Recipe
from tests.engine.measure.graphs import scorer
from tests.tiny_models import save_tiny_model
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.onnx import export_onnx
from worker.engine.measure.certificate import CertifiedModel, CertifyInputs, Holdout, certify
from worker.engine.measure.errors import MeasurementError
from worker.engine.measure.files import exported_files
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.probing import ModelFile, probe

TEXTS = [f"card {index} was not accepted at shop {index * 7 % 13} today" for index in range(40)]
RECIPE = Recipe(steps=(PruneLayers(layers=(1, 2, 3, 4, 5)),))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `dense` and `optimized`, each with safetensors and the graph of the same model."""
    root = tmp_path_factory.mktemp("tiny")
    base = save_tiny_model(root / "base", TEXTS, layers=6, hidden=64, channels=256)
    torch.manual_seed(0)
    dense = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    small = sliced(dense, anatomy_of(dense).shape(RECIPE))
    for name, model in (("dense", dense), ("optimized", small)):
        folder = root / "exports" / name
        model.save_pretrained(folder)
        export_onnx(model, tokenizer, folder / "model.onnx")
    return root / "exports"


@pytest.fixture(scope="module")
def rows(exports: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(exports.parent / "base")
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def test_both_runtimes_answer_what_the_model_answers(exports: Path, rows: list[list[int]]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(exports / "dense").eval()
    with torch.inference_mode():
        expected = np.concatenate([model(torch.tensor([row])).logits.numpy() for row in rows])
    inputs = BenchInputs.in_order(rows, batch_size=8)
    for file in (ModelFile(exports / "dense" / "model.onnx"), ModelFile(exports / "dense", "torch")):
        with probe(file, inputs, threads=1) as running:
            np.testing.assert_allclose(running.logits(), expected, atol=1e-4)


def test_a_folder_whose_weights_are_gone_is_a_typed_error(tmp_path: Path, rows: list[list[int]]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with (
        pytest.raises(MeasurementError, match="could not be measured in torch") as caught,
        probe(ModelFile(tmp_path, "torch"), BenchInputs.in_order(rows, batch_size=8), threads=1),
    ):
        pass
    assert str(tmp_path.parent) not in str(caught.value)


def test_a_model_of_one_layer_of_six_is_certified_as_faster(exports: Path, rows: list[list[int]]) -> None:
    dense, optimized = (
        CertifiedModel(ModelFile(exports / name / "model.onnx"), parameters=parameters, macs=macs)
        for name, parameters, macs in (("dense", 600, 60), ("optimized", 100, 10))
    )
    inputs = BenchInputs.in_order(rows, batch_size=1)
    with probe(dense.file, inputs, threads=1) as running:
        labels = running.logits().argmax(axis=1)
    spec = JobSpec.model_validate(
        {
            "base_model": {"path": "base"},
            "dataset": {"path": "data"},
            "constraints": {"accuracy": {"min_gain": 0.5}, "speed": {"min_speedup": 1.5}},
            "target": {"threads": 1, "sequence_length": 32},
        }
    )
    certificate = certify(
        CertifyInputs(
            spec=spec,
            recipe=RECIPE,
            dense=dense,
            optimized=optimized,
            holdout=Holdout(rows, scorer(rows, labels)),
            artifacts=exported_files(exports / "optimized"),
            loadable="native",
        ),
        seconds=1.0,
    ).certificate
    assert certificate.dense.metric.value == 1.0
    assert certificate.ratios.speedup > 1.5
    assert certificate.ratios.size_reduction > 2.0
    assert [result.met for result in certificate.constraints] == [False, True]
    assert not certificate.constraints_met
    assert certificate.artifacts.keys() == {"config.json", "model.onnx", "model.safetensors"}
