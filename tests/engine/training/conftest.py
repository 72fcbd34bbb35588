from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from worker.engine.device import Device
from worker.engine.tasks import TASKS, Split

WORDS, CLASSES = 40, 3


def keyword_split(rows: int, seed: int) -> Split:
    """Random words, of which exactly one tells the class; lengths vary."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, rows)
    texts = []
    for label in labels:
        words = generator.integers(10, WORDS, generator.integers(3, 12))
        words[generator.integers(0, len(words))] = 3 + label
        texts.append(np.concatenate([[1], words, [2]]))
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    return Split(np.concatenate(texts), offsets.astype(np.int64), labels.astype(np.int64), pad_id=0)


def tiny_bert(seed: int = 0, layers: int = 2) -> BertForSequenceClassification:
    """Weights are larger than usual at this width, so that a few steps are enough to learn."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=CLASSES,
        initializer_range=0.1,
    )
    return BertForSequenceClassification(config).eval()


@dataclass(frozen=True)
class Keywords:
    """A task that two tiny layers can learn."""

    train: Split
    selection: Split
    task: Any
    device: Device

    @property
    def parts(self) -> tuple[Split, Split, Any]:
        return self.train, self.selection, self.task


@pytest.fixture(scope="session")
def keywords() -> Iterator[Keywords]:
    threads = torch.get_num_threads()
    device = Device.pick("cpu", threads=1)  # matrices this small are slower on two
    yield Keywords(keyword_split(600, 1), keyword_split(150, 2), TASKS["text-classification"], device)
    torch.set_num_threads(threads)
