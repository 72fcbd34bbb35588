"""A small real job for every task: what a user would hand in, made of the samples in tests/data."""

from __future__ import annotations

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

from models.spec import JobSpec, TaskName
from models.spec.capabilities import DECODERS
from tests.tiny_models import save_tiny_decoder, save_tiny_model

DATA = Path(__file__).resolve().parents[1] / "data"
BANKING = Path(__file__).resolve().parents[2] / "examples" / "data" / "banking77"
Split = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def task_spec(task: TaskName, folder: Path, architecture: str, **changes: Any) -> JobSpec:
    """The job, with its model and data written below `folder`."""
    train, test = TASK_ROWS[task]()
    (folder / "data").mkdir()
    for name, rows in (("train", train), ("test", test)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    save = save_tiny_decoder if architecture in DECODERS else save_tiny_model
    save(
        folder / "model",
        list(_texts(train)),
        architecture=architecture,
        layers=2,
        positions=160 if task == "question-answering" else 80,
    )
    document: dict[str, Any] = {
        "base_model": {"path": str(folder / "model")},
        "dataset": {"path": str(folder / "data")},
        "task": task,
        "constraints": {"size": {"min_reduction": 1.2}},
        "focus": "size",
        # int8 is held to in the contract of heads; here it would double what is measured.
        "approximations": ["prune_heads", "prune_weight_groups"],
        "baseline": {"epochs": 1, "learning_rate": 0.003, "max_length": 64},
        "recovery": {"epochs": 1},
        "budget": {"max_minutes": 0.7},
        # A random language model has a head: it is not seen that nobody has trained it.
        "fine_tune": True if task == "causal-lm" else None,
        # More threads spin after every call, which whoever measures next waits for.
        "target": {"threads": 1},
    }
    return JobSpec.model_validate(document | changes)


def wnut17() -> Split:
    return _rows(DATA / "wnut17" / "train.jsonl.gz"), _rows(DATA / "wnut17" / "test.jsonl.gz")


def squad() -> Split:
    return _rows(DATA / "squad" / "train.jsonl.gz"), _rows(DATA / "squad" / "validation.jsonl.gz")


def kinds_of_entities() -> Split:
    """Which kinds of entities a text has; several, one or none."""

    def labelled(row: dict[str, Any]) -> dict[str, Any]:
        kinds = sorted({tag[2:] for tag in row["ner_tags"] if tag != "O"})
        return {"text": " ".join(row["tokens"]), "labels": kinds}

    train, test = wnut17()
    return [labelled(row) for row in train], [labelled(row) for row in test]


def shared_words() -> Split:
    """How many of their words two questions share, from 0 to 5."""
    texts = [row["text"] for row in _rows(BANKING / "train.jsonl.gz")[:260]]
    rows = []
    for first, second in pairwise(texts):
        a, b = set(first.lower().split()), set(second.lower().split())
        rows.append({"sentence1": first, "sentence2": second, "score": 5 * len(a & b) / len(a | b)})
    return rows[:200], rows[200:]


def one_of_four_answers() -> Split:
    """Which of the answers to four questions is the one to this."""

    def chosen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers = [row["answers"]["text"][0] for row in rows]
        made = []
        for place, row in enumerate(rows):
            others = [answers[(place + step) % len(rows)] for step in (5, 9, 13)]
            label = place % 4
            made.append(
                {
                    "question": row["question"],
                    "choices": [*others[:label], answers[place], *others[label:]],
                    "label": label,
                }
            )
        return made

    train, test = squad()
    return chosen(train), chosen(test)


def contexts() -> Split:
    """Paragraphs of encyclopedia articles, each once."""

    def unique(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"text": text} for text in dict.fromkeys(row["context"] for row in rows)]

    train, test = squad()
    return unique(train), unique(test)


def intents() -> Split:
    rows = [row for row in _rows(BANKING / "train.jsonl.gz") if row["label"] in ("card_arrival", "age_limit")]
    random.Random(0).shuffle(rows)
    return rows[:120], rows[120:180]


TASK_ROWS = {
    "text-classification": intents,
    "multi-label-classification": kinds_of_entities,
    "regression": shared_words,
    "token-classification": wnut17,
    "question-answering": squad,
    "multiple-choice": one_of_four_answers,
    "causal-lm": contexts,
}


def _rows(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _texts(value: Any) -> Any:
    """All strings in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
