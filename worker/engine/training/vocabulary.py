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

from worker.engine.anatomy import anatomy_of
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
        """The rows of `model`'s word embedding that `split` uses; of a language model all.

        Where positions are counted by the padding id (RoBERTa), ids up to it keep their number.
        """
        full = cast(nn.Embedding, model.get_input_embeddings())
        anatomy, kept = anatomy_of(model), np.array([split.pad_id])
        form = anatomy.form
        if anatomy.kind == "causal":
            return CompactVocabulary(model, full, full, torch.arange(full.num_embeddings), split)
        if form.get("positions") == "after_padding":
            kept = np.arange(max(split.pad_id, form["pad_token_id"]) + 1)
        used = np.union1d(np.unique(split.ids), kept)
        rows = torch.from_numpy(used).to(full.weight.device)
        padding = full.padding_idx
        small = nn.Embedding.from_pretrained(
            full.weight.detach()[rows].clone(),
            freeze=False,
            padding_idx=None
            if padding is None or padding not in used
            else int(np.searchsorted(used, padding)),
        )
        ids, pad_id = np.searchsorted(used, split.ids), int(np.searchsorted(used, split.pad_id))
        return CompactVocabulary(
            model, full, small, rows, replace(split, ids=ids.astype(np.int64), pad_id=pad_id)
        )

    @contextmanager
    def compact(self) -> Iterator[None]:
        """The model holds the small table inside, and the full one, with the trained rows, after."""
        if self.small is self.full:
            yield
            return
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
        if self.small is self.full:
            yield
            return
        with torch.no_grad():
            self.full.weight[self.rows] = self.small.weight
        self.model.set_input_embeddings(self.full)
        try:
            yield
        finally:
            self.model.set_input_embeddings(self.small)
