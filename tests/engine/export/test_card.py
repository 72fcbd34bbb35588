"""The model card says what was measured, and its snippets run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import (
    Certificate,
    ConstraintResult,
    ExportName,
    Latency,
    Loadable,
    MetricValue,
    ModelMeasurements,
    PruneHeads,
    PruneLayers,
    Quantize,
    Ratios,
    Recipe,
    TaskName,
)
from tests.engine.decoder_models import tiny_decoder
from tests.engine.export_models import tiny_classifier, tiny_model
from tests.tiny_models import byte_pair_tokenizer, wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.heads import HeadKind
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.card import CardFacts, card_text, write_card
from worker.engine.export.onnx import save_onnx_folder
from worker.engine.export.safetensors import save_folder
from worker.engine.export.snippets import Format
from worker.engine.export.torch_program import save_program_folder

FACTS = CardFacts(
    name="intents",
    base_model="someone/encoder",
    dataset="intents",
    labels=["label 0", "a `quoted`\nlabel"],
    license="apache-2.0",
    attributions=["Data: Someone, CC BY 4.0."],
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return wordpiece_tokenizer(["your text", "and some more of it"], 100)


def certificate(loadable: Loadable, recipe: Recipe | None = None) -> Certificate:
    def side(accuracy: float, milliseconds: float, size: int) -> ModelMeasurements:
        return ModelMeasurements(
            metric=MetricValue(name="accuracy", value=accuracy),
            latency_ms=Latency(p50=milliseconds, p95=2 * milliseconds),
            throughput=1000 / milliseconds,
            size_bytes=size,
            parameters=size // 4,
            macs=size // 2,
        )

    return Certificate(
        dense=side(0.9213, 6.0, 90_000_000),
        optimized=side(0.9187, 1.5, 15_000_000),
        ratios=Ratios(
            speedup=4.0, size_reduction=6.0, relative_drop=0.0028, relative_drop_interval=(-0.001, 0.006)
        ),
        constraints=(ConstraintResult(name="speed.min_speedup", required=3.0, measured=4.0, met=True),),
        constraints_met=True,
        verdict="met",
        loadable=loadable,
        device="2 cores of a processor",
        runtime="onnxruntime",
        versions={},
        seed=7,
        spec_digest="ab" * 32,
        artifacts={},
        holdout_rows=3080,
        recipe=recipe or Recipe(steps=(PruneLayers(layers=(0,)), Quantize())),
    )


def test_says_what_was_measured() -> None:
    text = card_text(certificate("native"), FACTS, "onnx")
    front, _, body = text.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front) == {
        "pipeline_tag": "text-classification",
        "tags": ["axforge"],
        "library_name": "onnx",
        "metrics": ["accuracy"],
        "license": "apache-2.0",
    }
    for said in (
        "| accuracy | 0.9213 | 0.9187 |",
        "| size, MB | 90.00 | 15.00 | 6.00x smaller |",
        "| speed.min_speedup | 3 | 4 | met |",
        "3080 examples",
        "* `prune_layers`\n* `quantize`",
        "Data: Someone, CC BY 4.0.",
        "`a 'quoted' label`",
    ):
        assert said in body, said
    assert "figures of the onnx export" not in body


def test_says_what_int8_weights_need_in_torch() -> None:
    in_torch = certificate("native").model_copy(
        update={"runtime": "torch", "versions": {"torchao": "0.18.0"}}
    )
    assert "`pip install torchao==0.18.0` first" in card_text(in_torch, FACTS, "safetensors")
    plain = in_torch.model_copy(update={"recipe": Recipe(steps=(PruneLayers(layers=(0,)),))})
    for told, export in ((plain, "safetensors"), (in_torch, "onnx"), (certificate("native"), "safetensors")):
        assert "torchao" not in card_text(told, FACTS, export)


def test_says_whose_figures_they_are() -> None:
    assert "figures of the onnx export, not of the files" in card_text(
        certificate("native"), FACTS, "safetensors"
    )


def test_invents_no_licence() -> None:
    text = card_text(certificate("native"), CardFacts("a", "b", "c", ["d"]), "onnx")
    assert "icen" not in text.replace("uncertain", "")


def test_says_when_nothing_was_done() -> None:
    assert "Nothing was approximated" in card_text(certificate("native", Recipe()), FACTS, "onnx")


@pytest.mark.parametrize("export", ["native", "remote_code", "onnx"])
def test_snippets_run(
    export: Loadable, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = tiny_classifier("bert")
    step = PruneHeads(layer=0, heads=(1,)) if export == "remote_code" else PruneLayers(layers=(0,))
    model = sliced(dense, anatomy_of(dense).shape(Recipe(steps=(step,))))
    if export == "onnx":
        save_onnx_folder(model, tokenizer, tmp_path, max_length=32)
    else:
        assert save_folder(model, tokenizer, tmp_path) == export
    card = write_card(
        tmp_path, certificate(export), FACTS, "onnx" if export == "onnx" else "safetensors"
    ).read_text()
    snippet = card.partition("```python\n")[2].partition("```")[0]
    capsys.readouterr()
    exec(snippet.replace("PATH/TO/THIS/FOLDER", str(tmp_path)), {})
    assert "label " in capsys.readouterr().out


@pytest.mark.parametrize("export", ["native", "remote_code", "onnx", "torch_export"])
@pytest.mark.parametrize(
    ("task", "kind", "said"),
    [
        ("text-classification", "sequence", "label "),
        ("multi-label-classification", "sequence", "label "),
        ("regression", "sequence", ""),
        ("token-classification", "token", "label "),
        ("question-answering", "span", ""),
        ("multiple-choice", "choice", "choice"),
    ],
)
def test_snippets_of_other_tasks_run(
    task: TaskName,
    kind: HeadKind,
    said: str,
    export: Format,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dense = tiny_model("bert", kind)
    step = PruneHeads(layer=0, heads=(1,)) if export == "remote_code" else PruneLayers(layers=(0,))
    model = sliced(dense, anatomy_of(dense).shape(Recipe(steps=(step,))))
    if export == "onnx":
        save_onnx_folder(model, tokenizer, tmp_path, max_length=32)
    elif export == "torch_export":
        save_program_folder(model, tokenizer, tmp_path, max_length=32)
    else:
        assert save_folder(model, tokenizer, tmp_path) == export
    facts = CardFacts("a", "b", "c", ["d"], task=task)
    name: ExportName = export if export in ("onnx", "torch_export") else "safetensors"
    loadable: Loadable = "remote_code" if export == "remote_code" else "native"
    text = card_text(certificate(loadable), facts, name)
    front = yaml.safe_load(text.split("---\n")[1])
    expected = task if kind != "sequence" else "text-classification"
    assert front["pipeline_tag"] == expected
    snippet = text.partition("```python\n")[2].partition("```")[0]
    capsys.readouterr()
    exec(snippet.replace("PATH/TO/THIS/FOLDER", str(tmp_path)), {})
    printed = capsys.readouterr().out
    assert printed.strip() or task == "question-answering"
    assert said in printed


@pytest.mark.parametrize("export", ["native", "remote_code", "onnx"])
def test_snippets_of_language_models_write_on(
    export: Loadable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, tokenizer = tiny_decoder("llama"), byte_pair_tokenizer(["your text", "and some more of it"], 290)
    step = PruneHeads(layer=0, heads=(1,)) if export == "remote_code" else PruneLayers(layers=(0,))
    model = sliced(dense, anatomy_of(dense).shape(Recipe(steps=(step,))))
    if export == "onnx":
        save_onnx_folder(model, tokenizer, tmp_path, max_length=32)
    else:
        assert save_folder(model, tokenizer, tmp_path) == export
    facts = CardFacts("a", "b", "c", [], task="causal-lm")
    text = card_text(certificate(export), facts, "onnx" if export == "onnx" else "safetensors")
    assert yaml.safe_load(text.split("---\n")[1])["pipeline_tag"] == "text-generation"
    snippet = text.partition("```python\n")[2].partition("```")[0]
    capsys.readouterr()
    exec(snippet.replace("PATH/TO/THIS/FOLDER", str(tmp_path)), {})
    assert "your text" in capsys.readouterr().out
