"""One label for a text or for a pair of texts."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from worker.engine.tasks.base import Task
from worker.engine.tasks.metrics import METRICS, confusion_matrix
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Split


class TextClassification(Task):
    """Cross-entropy over the label set. Pairs are joined as the tokenizer joins them."""

    name: ClassVar[str] = "text-classification"
    metrics: ClassVar[tuple[str, ...]] = tuple(METRICS)

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Split:
        encoded = tokenizer(
            list(rows.texts),
            None if rows.pairs is None else list(rows.pairs),
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        segments: list[list[int]] | None = encoded.get("token_type_ids")
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        return Split(
            ids=_flat(ids),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            labels=rows.labels,
            pad_id=int(tokenizer.pad_token_id or 0),
            segments=None if segments is None else _flat(segments),
        )

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")

    def metric(self, name: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        return METRICS[name](confusion_matrix(logits.argmax(axis=1), labels, logits.shape[1]))


def _flat(rows: list[list[int]]) -> NDArray[np.int64]:
    return np.fromiter((token for row in rows for token in row), dtype=np.int64)
