"""Folders in int8 by torchao: what they weigh, that they load elsewhere, and when a job delivers one.

What writes or reads them runs where torchao is installed: `pip install 'axforge-server[torchao]'`.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import JobSpec, PruneHeads, PruneLayers, Recipe
from tests.engine.export_models import logits, padded_batch, tiny_classifier
from tests.engine.task_runs import task_spec
from tests.tiny_models import wordpiece_tokenizer
from worker.engine import run as engine_run
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.safetensors import save_folder, save_int8_folder, torchao_installed
from worker.engine.measure.files import loaded_bytes
from worker.engine.measure.probing import ModelFile
from worker.engine.pipeline import run as run_job
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.precision import plain_forms

needs_torchao = pytest.mark.skipif(not torchao_installed(), reason="torchao is not installed")
NATIVE = Recipe(steps=(PruneLayers(layers=(1,)),))
MIXED = NATIVE.then(PruneHeads(layer=0, heads=(1, 2)))
SIZE = {"target": {"runtime": "torch"}, "focus": "size", "constraints": {"size": {"min_reduction": 1.3}}}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return wordpiece_tokenizer(["a few words", "and some more of them"], 100)


def model_of(recipe: Recipe) -> PreTrainedModel:
    dense = tiny_classifier("bert", hidden_size=64, intermediate_size=256)
    return sliced(dense, anatomy_of(dense).shape(recipe))


def spec_of(**changes: Any) -> JobSpec:
    return JobSpec.model_validate({"base_model": {"path": "m"}, "dataset": {"path": "d"}, **changes})


@needs_torchao
@pytest.mark.parametrize(("recipe", "loadable"), [(NATIVE, "native"), (MIXED, "remote_code")])
def test_a_folder_in_int8_is_read_by_transformers(
    recipe: Recipe, loadable: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = model_of(recipe)
    save_folder(model, tokenizer, tmp_path / "fp32")
    assert save_int8_folder(model, tokenizer, tmp_path / "int8") == loadable
    assert {file.name for file in (tmp_path / "fp32").iterdir()} == {
        file.name for file in (tmp_path / "int8").iterdir()
    }
    config = json.loads((tmp_path / "int8" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "torchao"
    fp32, int8 = (loaded_bytes(ModelFile(tmp_path / name, "torch")) for name in ("fp32", "int8"))
    assert int8 < 0.5 * fp32
    trusted = {"trust_remote_code": True} if loadable == "remote_code" else {}
    read = AutoModelForSequenceClassification.from_pretrained(tmp_path / "int8", **trusted).eval()
    batch = padded_batch(model)
    want, got = logits(model, batch), logits(read, batch)
    assert 0 < (got - want).abs().max() < 0.1 * (want.max() - want.min())


@needs_torchao
@pytest.mark.slow
def test_a_job_for_torch_that_wants_size_alone_gets_int8(tmp_path: Path) -> None:
    approximations = ["prune_heads", "prune_weight_groups", "quantize"]
    spec = task_spec("text-classification", tmp_path, "bert", **SIZE, approximations=approximations)
    certified = run_job(spec, tmp_path / "run", SilentReporter()).certificate
    config = next((tmp_path / "run").rglob("optimized/safetensors/config.json"))
    assert json.loads(config.read_text())["quantization_config"]["quant_method"] == "torchao"
    assert "quantize" in {step.approximation for step in certified.recipe.steps}
    assert certified.optimized.size_bytes < certified.dense.size_bytes


@pytest.mark.parametrize(
    ("installed", "changes", "forms"),
    [
        (True, SIZE, ["dense", "dense-int8"]),
        (False, SIZE, ["dense"]),
        (True, {**SIZE, "focus": "speed"}, ["dense"]),
        (True, {**SIZE, "constraints": {"speed": {"min_speedup": 2.0}}}, ["dense"]),
        (True, {**SIZE, "approximations": ["prune_heads"]}, ["dense"]),
    ],
)
def test_int8_in_torch_is_for_size_alone(
    installed: bool, changes: dict[str, Any], forms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_run, "torchao_installed", lambda: installed)
    told: list[str] = []
    asked = SimpleNamespace(
        spec=spec_of(**changes), reporter=SimpleNamespace(event=lambda name, text: told.append(name))
    )
    quantizes = cast(property, Run.quantizes).fget
    assert quantizes is not None
    asked.quantizes = quantizes(asked)
    assert list(plain_forms(cast(Run, asked))) == forms
    assert told == (["precision.kept"] if not installed else [])
