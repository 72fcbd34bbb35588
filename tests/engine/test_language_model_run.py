"""A language model, end to end: trained, narrowed, quantized and certified by perplexity; then it writes."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.engine.runs import Recorder
from tests.engine.task_runs import task_spec
from worker.engine.pipeline import RunResult, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("language-model")
    spec = task_spec(
        "causal-lm",
        folder,
        "llama",
        constraints={"size": {"min_reduction": 3.4}, "accuracy": {"max_relative_drop": 0.5}},
        baseline={"epochs": 12, "learning_rate": 0.01, "max_length": 64, "batch_size": 8},
        recovery={"epochs": 2, "learning_rate": 0.005, "batch_size": 8},
        approximations=["prune_layers", "prune_heads", "prune_weight_groups", "quantize"],
        budget={"max_minutes": 0.5},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AXFORGE_CACHE_DIR", str(folder / "cache"))
        return run(spec, folder / "run", Recorder())


def artifact(result: RunResult, name: str) -> Path:
    return next(artifact.path for artifact in result.artifacts if artifact.name == name)


def test_the_certificate_is_of_perplexity(result: RunResult) -> None:
    certificate = result.certificate
    dense, optimized = certificate.dense.metric, certificate.optimized.metric
    assert dense.name == optimized.name == "perplexity"
    assert 1 < dense.value < 250, "trained, it is less surprised than by words drawn at random (400)"
    assert certificate.ratios.relative_drop == pytest.approx(optimized.value / dense.value - 1)
    assert certificate.ratios.size_reduction >= 3.4
    assert certificate.constraints_met
    assert any("whole blocks" in note for note in certificate.notes)
    report = json.loads(artifact(result, "holdout.json").read_text())
    assert report["scores"]["dense"]["perplexity"] == pytest.approx(dense.value)
    assert report["rows"] == certificate.holdout_rows
    card = artifact(result, "onnx/README.md").read_text()
    assert 'pipeline_tag: "text-generation"' in card
    assert certificate.notes[1] in card


def test_the_delivered_folders_write_on(result: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    onnx, folder = (
        artifact(result, "onnx/model.onnx").parent,
        artifact(result, "safetensors/config.json").parent,
    )
    snippet = (onnx / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    exec(snippet.replace("PATH/TO/THIS/FOLDER", str(onnx)), {})
    assert capsys.readouterr().out.startswith("your text")
    code = result.certificate.loadable == "remote_code"
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=code)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("The city", return_tensors="pt", add_special_tokens=False)
    written = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert torch.equal(written[:, : prompt["input_ids"].shape[1]], prompt["input_ids"])
    inputs = [given.name for given in onnxruntime.InferenceSession(onnx / "model.onnx").get_inputs()]
    assert inputs[:2] == ["input_ids", "attention_mask"]
    assert "past_key_values.0.key" in inputs
