"""Training only the embedding rows that the training data uses.

Most of a small model is its embedding table, and most rows never occur in a data set. Their gradient is
zero and, without weight decay on embeddings, AdamW leaves them as they are; so training a table of the
rows that occur gives the same weights and saves the optimizer's time and memory for all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from worker.engine.tasks.split import Split


@dataclass
class CompactVocabulary:
    """`split` has ids of the small table while the model holds it (`compact`)."""

    model: PreTrainedModel
    full: nn.Embedding
    small: nn.Embedding
    rows: torch.Tensor
    split: Split

    @staticmethod
    def of(model: PreTrainedModel, split: Split) -> CompactVocabulary:
        """The rows of `model`'s word embedding that `split` uses.

        Ids up to the padding id keep their number, since RoBERTa counts positions by it.
        """
        full = cast(nn.Embedding, model.get_input_embeddings())
        used = np.union1d(np.unique(split.ids), np.arange(split.pad_id + 1))
        rows = torch.from_numpy(used).to(full.weight.device)
        small = nn.Embedding.from_pretrained(
            full.weight.detach()[rows].clone(), freeze=False, padding_idx=full.padding_idx
        )
        return CompactVocabulary(
            model, full, small, rows, replace(split, ids=np.searchsorted(used, split.ids).astype(np.int64))
        )

    @contextmanager
    def compact(self) -> Iterator[None]:
        """The model holds the small table inside, and the full one, with the trained rows, after."""
        self.model.set_input_embeddings(self.small)
        try:
            yield
        finally:
            with torch.no_grad():
                self.full.weight[self.rows] = self.small.weight
            self.model.set_input_embeddings(self.full)

    @contextmanager
    def expanded(self) -> Iterator[None]:
        """Within `compact`: the full table, with the rows as trained so far."""
        with torch.no_grad():
            self.full.weight[self.rows] = self.small.weight
        self.model.set_input_embeddings(self.full)
        try:
            yield
        finally:
            self.model.set_input_embeddings(self.small)
