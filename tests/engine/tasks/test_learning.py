"""Tiny models learn each task from data that follows a rule, and hand it on by distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig

from models.spec import TaskName
from tests.engine.tasks.tables import read
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import LayerShape, Shape, anatomy_of
from worker.engine.anatomy.bert import BERT
from worker.engine.anatomy.slicing import sliced
from worker.engine.device import Device
from worker.engine.significance.fisher import fisher_information
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.tasks import evaluate
from worker.engine.training import DistilOptions, FitOptions, augmented, distil, fine_tune

NOUNS = ["tree", "house", "river", "stone", "cloud", "road", "bird", "lamp"]
NAMES = ["anna", "bert", "carl", "dora"]
PLACES = ["rome", "paris", "lima"]
Row = dict[str, Any]


def words(rng: np.random.Generator, count: int) -> list[str]:
    return [str(word) for word in rng.choice(NOUNS, count)]


def inserted(rng: np.random.Generator, row: list[str], word: str) -> list[str]:
    at = int(rng.integers(len(row) + 1))
    return [*row[:at], word, *row[at:]]


def multi_label(rng: np.random.Generator) -> Row:
    row = words(rng, 4)
    has_name, has_place = rng.random(2) < 0.5
    row = inserted(rng, row, str(rng.choice(NAMES))) if has_name else row
    row = inserted(rng, row, str(rng.choice(PLACES))) if has_place else row
    return {"text": " ".join(row), "labels": ["name"] * bool(has_name) + ["place"] * bool(has_place)}


def regression(rng: np.random.Generator) -> Row:
    count = int(rng.integers(0, 6))
    row = words(rng, 6 - count) + [str(name) for name in rng.choice(NAMES, count)]
    return {"text": " ".join(rng.permutation(row)), "score": float(count)}


def tokens(rng: np.random.Generator) -> Row:
    row = [str(word) for word in rng.choice([*NOUNS, *NAMES, *PLACES], int(rng.integers(3, 9)))]
    tags = ["B-per" if word in NAMES else "B-loc" if word in PLACES else "O" for word in row]
    return {"tokens": row, "ner_tags": tags}


def question(rng: np.random.Generator) -> Row:
    name = str(rng.choice(NAMES))
    text = " ".join(inserted(rng, words(rng, int(rng.integers(4, 40))), name))
    return {
        "question": "who is it",
        "context": text,
        "answers": {"text": [name], "answer_start": [text.index(name)]},
    }


def choice(rng: np.random.Generator) -> Row:
    label = int(rng.integers(3))
    options = [" ".join(words(rng, 2)) for _ in range(3)]
    options[label] = f"{options[label]} {rng.choice(NAMES)}"
    return {"question": "who is it", "choices": options, "label": label}


RULES: dict[TaskName, tuple[Callable[[np.random.Generator], Row], str, float]] = {
    "multi-label-classification": (multi_label, "f1_micro", 0.95),
    "regression": (regression, "pearson", 0.9),
    "token-classification": (tokens, "f1", 0.95),
    "question-answering": (question, "f1", 0.9),
    "multiple-choice": (choice, "accuracy", 0.9),
}


@pytest.mark.parametrize("task_name", RULES)
def test_a_task_is_learnt_and_handed_on(task_name: TaskName) -> None:
    make, metric, wanted = RULES[task_name]
    rng = np.random.default_rng(0)
    rows = [make(rng) for _ in range(500)]
    task, _, complete = read(task_name, rows)
    tokenizer = wordpiece_tokenizer([*NOUNS, *NAMES, *PLACES, "who is it"], 120)
    encoded = task.encode(complete, tokenizer, max_length=32)
    train, selection = encoded.select(np.arange(400)), encoded.select(np.arange(400, 500))
    device = Device.pick("cpu", threads=1)
    model = tiny(task.head, len(complete.labels))
    before = evaluate(model, selection, task, batch_size=32, device=device)
    options = FitOptions(epochs=12, learning_rate=3e-3, metric=metric, patience=None, precision="fp32")
    fine_tune(model, train, selection, task, options, device=device)
    after = evaluate(model, selection, task, batch_size=32, device=device)
    assert after.metrics[metric] > wanted > before.metrics[metric]
    assert after.loss < before.loss

    anatomy = anatomy_of(model)
    full = anatomy.full_shape()
    narrow = LayerShape(full.layers[1].heads[:1], full.layers[1].channels[:8])
    student = sliced(model, full.with_layer(1, narrow))
    damaged = evaluate(student, selection, task, batch_size=32, device=device)
    lessons = augmented(train, 1, fixed=tokenizer.all_special_ids, seed=0)
    again = DistilOptions(
        epochs=4, learning_rate=2e-3, metric=metric, hard=0.0, patience=None, precision="fp32"
    )
    distil(student, model, lessons, selection, task, again, device=device)
    recovered = evaluate(student, selection, task, batch_size=32, device=device)
    assert recovered.metrics[metric] > wanted - 0.1
    assert np.square(recovered.logits - after.logits).mean() < np.square(damaged.logits - after.logits).mean()


@pytest.mark.parametrize("task_name", RULES)
def test_losses_do_not_depend_on_batches_and_significance_is_by_row(task_name: TaskName) -> None:
    rng = np.random.default_rng(1)
    task, _, complete = read(task_name, [RULES[task_name][0](rng) for _ in range(24)])
    tokenizer = wordpiece_tokenizer([*NOUNS, *NAMES, *PLACES, "who is it"], 120)
    split = task.encode(complete, tokenizer, max_length=32)
    device = Device.pick("cpu", threads=1)
    model = tiny(task.head, len(complete.labels))
    anatomy = anatomy_of(model)
    full = anatomy.full_shape()
    alone = evaluate(model, split, task, batch_size=1, device=device)
    together = evaluate(model, split, task, batch_size=24, device=device)
    np.testing.assert_allclose(alone.losses, together.losses, atol=1e-5)
    np.testing.assert_allclose(alone.logits, together.logits, atol=1e-5)

    without = Shape((full.layers[0], LayerShape((), full.layers[1].channels)))
    replay = PrefixReplay(anatomy, split, task, device, precision="fp32", batch_size=7)
    with anatomy.masked(without):
        masked = evaluate(model, split, task, batch_size=7, device=device)
    np.testing.assert_allclose(replay.losses(without), masked.losses, atol=1e-6)

    together_sum = fisher_information(anatomy, full, split, task, device, batch_size=5).heads.sum(axis=0)
    rows = (split.select(np.array([row])) for row in range(len(split)))
    alone_sum = sum(fisher_information(anatomy, full, row, task, device).heads.sum(axis=0) for row in rows)
    assert np.abs(together_sum - alone_sum).max() < 0.05 * np.abs(alone_sum).max()


def tiny(kind: Any, labels: int) -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=130,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        num_labels=2 if kind == "span" else labels,
        initializer_range=0.1,
    )
    return BERT.heads[kind].model_class(config).eval()
