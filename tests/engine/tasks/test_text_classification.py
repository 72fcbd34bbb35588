from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.spec.capabilities import ENCODERS
from tests.tiny_models import save_tiny_model
from worker.engine.device import Device
from worker.engine.prepare import load_model, load_tokenizer
from worker.engine.tasks import TASKS, Rows, evaluate

TASK = TASKS["text-classification"]
TEXTS = ["a short text", "a text that is a good deal longer than the first one", "words", "b c d e"]
PAIRS = ["with a second", "and another", "text", "that follows it"]
LABELS = np.array([0, 1, 1, 0])


def rows(pairs: list[str] | None) -> Rows:
    parts = {"text": TEXTS, "label": LABELS.tolist()} | ({} if pairs is None else {"text_pair": pairs})
    return Rows(parts, ("no", "yes"))


@pytest.fixture(scope="module", params=ENCODERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture: str = request.param
    return save_tiny_model(
        tmp_path_factory.mktemp(architecture) / "model", TEXTS + PAIRS, architecture=architecture
    )


@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_results_do_not_depend_on_how_rows_are_batched(folder: Path, pairs: list[str] | None) -> None:
    model, _ = load_model(folder, TASK, labels=("no", "yes"))
    split = TASK.encode(rows(pairs), load_tokenizer(folder), max_length=40)
    device = Device.pick("cpu", threads=1)
    one = evaluate(model, split, TASK, batch_size=1, device=device)
    all_at_once = evaluate(model, split, TASK, batch_size=4, device=device)
    np.testing.assert_allclose(one.logits, all_at_once.logits, atol=1e-5)
    for row in range(4):
        batch = split.batch(np.array([row]))
        with torch.no_grad():
            logits = model(**batch.inputs).logits
        np.testing.assert_allclose(one.logits[row], logits[0].numpy(), atol=1e-5)
        expected = torch.nn.functional.cross_entropy(logits, batch.labels)
        assert one.losses[row] == pytest.approx(float(expected), abs=1e-5)
    assert one.loss == pytest.approx(float(one.losses.mean()))
    assert one.metrics["accuracy"] == np.mean(one.logits.argmax(1) == LABELS)


@pytest.mark.parametrize("made", [True, False])
def test_segments_are_made_by_tokenizers_that_do_for_models_that_know_them(
    folder: Path, tmp_path: Path, made: bool
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    names = ["input_ids", *["token_type_ids"] * made, "attention_mask"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_input_names": names}))
    split = TASK.encode(rows(PAIRS), load_tokenizer(tmp_path / "model"), max_length=40)
    without = ("deberta", "distilbert", "modernbert", "mpnet")
    assert (split.segments is not None) == (made and not folder.parent.name.startswith(without))
    if split.segments is not None:
        assert set(split.segments.tolist()) == {0, 1}


def test_long_rows_are_cut(folder: Path) -> None:
    split = TASK.encode(rows(PAIRS), load_tokenizer(folder), max_length=8)
    assert split.lengths.max() == 8


def test_an_empty_split_cannot_be_judged(folder: Path) -> None:
    model, _ = load_model(folder, TASK, labels=("no", "yes"))
    split = TASK.encode(rows(None), load_tokenizer(folder), max_length=8)
    with pytest.raises(ValueError, match="no rows"):
        evaluate(
            model,
            split.select(np.array([], dtype=np.int64)),
            TASK,
            batch_size=2,
            device=Device.pick("cpu", threads=1),
        )
