"""A model with a table of the words that occur answers as with the whole one, wherever its padding id is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engine.export_models import VOCABULARY, logits, tiny_classifier
from worker.engine.tasks.split import Split
from worker.engine.training.vocabulary import CompactVocabulary


@pytest.mark.parametrize(
    ("family", "pad_id", "rows"), [("bert", 0, 6), ("modernbert", VOCABULARY - 1, 6), ("roberta", 7, 13)]
)
def test_compact(family: str, pad_id: int, rows: int) -> None:
    model = tiny_classifier(family, pad_token_id=pad_id)
    ids = np.array([20, 40, 40, 21, 100, 20, 200])
    split = Split(ids, np.array([0, 5, 7]), np.array([0, 1]), pad_id)
    whole = logits(model, split.batch(np.arange(2)).inputs)
    vocabulary = CompactVocabulary.of(model, split)
    assert vocabulary.small.num_embeddings == rows
    with vocabulary.compact():
        small = logits(model, vocabulary.split.batch(np.arange(2)).inputs)
        assert torch.equal(small, whole) or torch.allclose(small, whole, atol=1e-6)
    torch.testing.assert_close(logits(model, split.batch(np.arange(2)).inputs), whole)
