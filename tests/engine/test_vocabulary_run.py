"""A whole run in which half of the vocabulary goes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from models.spec import JobSpec, PruneVocabulary
from models.spec.ranges import from_ranges
from tests.engine.runs import ROOT, TEST_ROWS, Recorder, tiny_sources, tiny_spec
from tests.tiny_models import save_tiny_model
from worker.engine.export.safetensors import load_folder
from worker.engine.pipeline import RunResult, run
from worker.engine.prepare import PreparedData, load_tokenizer
from worker.engine.run import Run

WORDS = 2500


class SpecRecorder(Recorder):
    spec: JobSpec


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, SpecRecorder, Path]:
    """The model knows the words of all intents; the task is four of them."""
    folder = tmp_path_factory.mktemp("sources")
    sources = tiny_sources(folder)
    with gzip.open(
        ROOT / "examples" / "data" / "banking77" / "train.jsonl.gz", "rt", encoding="utf-8"
    ) as file:
        texts = [json.loads(line)["text"] for line in file]
    model = save_tiny_model(folder / "wide", texts, vocabulary=WORDS)
    workdir, recorder = tmp_path_factory.mktemp("run"), SpecRecorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AXFORGE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        spec = tiny_spec({**sources, "base_model": {"path": str(model)}}, constraints={}, recovery="off")
        recorder.spec = spec
        return run(spec, workdir, recorder), recorder, workdir


def test_the_recipe_begins_with_the_vocabulary(finished: tuple[RunResult, SpecRecorder, Path]) -> None:
    result, recorder, workdir = finished
    step = result.certificate.recipe.steps[0]
    assert isinstance(step, PruneVocabulary)
    rows = from_ranges(step.rows)
    assert len(rows) < WORDS / 2
    told = [candidate.recipe.steps[0] for candidate in recorder.candidates if candidate.stage != "baseline"]
    assert told
    assert set(told) == {step}
    delivered = load_folder(workdir / "export" / "optimized" / "safetensors")
    assert delivered.config.vocab_size == len(rows)
    assert result.certificate.dense.parameters - result.certificate.optimized.parameters == 32 * (
        WORDS - len(rows)
    )


def test_rows_are_chosen_by_the_training_split_alone(finished: tuple[RunResult, SpecRecorder, Path]) -> None:
    result, _, workdir = finished
    dense = load_tokenizer(workdir / "baseline" / "model")
    data = PreparedData.load(workdir / "prepare" / "data")
    step = result.certificate.recipe.steps[0]
    assert isinstance(step, PruneVocabulary)
    rows = set(from_ranges(step.rows))

    def words(texts: Any) -> set[int]:
        return {token for row in dense(list(texts))["input_ids"] for token in row}

    assert words(data.train()["text"]) <= rows
    assert words(data.selection()["text"]) - rows
    assert words(data.holdout()["text"]) - rows


def test_the_certificate_is_of_the_delivered_tokenizer(
    finished: tuple[RunResult, SpecRecorder, Path],
) -> None:
    result, _, workdir = finished
    folder = workdir / "export" / "optimized" / "onnx"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    names = [given.name for given in session.get_inputs()]
    holdout = PreparedData.load(workdir / "prepare" / "data").holdout()
    right = 0
    for text, label in zip(holdout["text"], holdout["label"], strict=True):
        encoded = tokenizer.encode(text)
        values = {
            "input_ids": encoded.ids,
            "attention_mask": encoded.attention_mask,
            "token_type_ids": encoded.type_ids,
        }
        answer = session.run(None, {name: np.array([values[name]]) for name in names})[0]
        right += int(answer.argmax() == label)
    assert result.certificate.optimized.metric.value == pytest.approx(right / TEST_ROWS)


def test_the_search_sees_the_rows_as_the_delivered_tokenizer_cuts_them(
    finished: tuple[RunResult, SpecRecorder, Path],
) -> None:
    """The dense model is still measured with its own."""
    _, recorder, workdir = finished
    again = Run(recorder.spec, workdir, Recorder())
    assert again.selection.lengths.sum() > again.dense.selection.lengths.sum()
    assert again.timed_inputs().rows == again.dense.timed_inputs().rows
    assert again.anatomy.model.config.vocab_size < again.dense.anatomy.model.config.vocab_size == WORDS
