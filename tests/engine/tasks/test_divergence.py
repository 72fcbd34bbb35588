"""How far answers have moved from the whole model's: by the task's soft loss, whatever the labels say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from models.spec import TaskName
from worker.engine.anatomy import Anatomy, anatomy_of
from worker.engine.device import Device
from worker.engine.significance.elements import layer_elements
from worker.engine.tasks import TASKS, Split, divergence
from worker.engine.tasks.divergence import Divergence

CPU = Device.pick("cpu")
ROWS = 23


def anatomy(outputs: int) -> Anatomy:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=outputs,
        initializer_range=0.5,
    )
    return anatomy_of(BertForSequenceClassification(config).eval())


def rows(labels: np.ndarray) -> Split:
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 9, ROWS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Split(ids=generator.integers(1, 40, offsets[-1]), offsets=offsets, labels=labels, pad_id=0)


def logits(given: Anatomy, split: Split) -> np.ndarray:
    """Row by row, without padding."""
    with torch.no_grad():
        batches = [split.batch(np.array([index])) for index in range(len(split))]
        return np.concatenate([given.model(**each.inputs).logits.double().numpy() for each in batches])


@pytest.mark.parametrize(("name", "outputs"), [("text-classification", 3), ("regression", 1)])
def test_it_is_the_soft_loss_against_the_whole_model(name: TaskName, outputs: int) -> None:
    given = anatomy(outputs)
    split = rows(np.zeros(ROWS, dtype=np.int64 if outputs > 1 else np.float32))
    measured = Divergence(given.model, split, TASKS[name], device=CPU)
    assert measured.now() == pytest.approx(0.0, abs=1e-6)
    without = layer_elements(given.full_shape())[1].removed_from(given.full_shape())
    before = logits(given, split)
    with given.masked(without):
        after, found = logits(given, split), measured.now()
    if outputs == 1:
        wanted = np.mean((after - before) ** 2)
    else:
        p, q = (np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in (before, after))
        wanted = np.sum(p * np.log(p / q), axis=1).mean()
    assert found == pytest.approx(wanted, rel=1e-4)
    assert found > 0


def test_labels_and_how_sure_the_loss_is_do_not_matter() -> None:
    given, task = anatomy(3), TASKS["text-classification"]
    full = given.full_shape()
    layers = layer_elements(full)
    told = []
    for seed in (1, 2):
        split = rows(np.random.default_rng(seed).integers(0, 3, ROWS))
        measured = Divergence(given.model, split, task, device=CPU)
        for layer in layers:
            with given.masked(layer.removed_from(full)):
                told.append(measured.now())
    assert told[: len(layers)] == told[len(layers) :]


def test_answers_too_large_to_keep_are_those_of_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    given, split = anatomy(3), rows(np.zeros(ROWS, dtype=np.int64))
    monkeypatch.setattr(divergence, "affordable", lambda batch_size, split: min(batch_size, 7))
    few = Divergence(given.model, split, TASKS["text-classification"], device=CPU)
    alone = split.select(np.arange(7))
    same = Divergence(given.model, alone, TASKS["text-classification"], device=CPU)
    full = given.full_shape()
    with given.masked(layer_elements(full)[0].removed_from(full)):
        assert few.now() == pytest.approx(same.now(), rel=1e-6)
        assert few.now() > 0
