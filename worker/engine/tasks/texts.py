"""Tasks on a text or a pair of texts: what they have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from models.spec import Columns
from worker.engine.anatomy.heads import HeadKind
from worker.engine.tasks.base import Task
from worker.engine.tasks.columns import texts_of
from worker.engine.tasks.encoding import as_split
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Split


class TextTask(Task):
    """Reads `text`, `text_pair` and a label. Pairs are joined as the tokenizer joins them."""

    head: ClassVar[HeadKind] = "sequence"

    def read(self, table: pa.Table, columns: Columns) -> Rows:
        parts: dict[str, list[Any]] = {"text": texts_of(table, str(columns.text), "text")}
        if columns.text_pair is not None:
            parts["text_pair"] = texts_of(table, columns.text_pair, "text_pair")
        return Rows({**parts, "label": self.labels_of(table, columns)})

    def labels_of(self, table: pa.Table, columns: Columns) -> list[Any]:
        """The label of each row as it is written; None where it is missing."""
        raise NotImplementedError

    def texts(self, rows: Rows) -> list[str]:
        pairs = rows["text_pair"] if "text_pair" in rows else [""] * len(rows)
        return [
            f"{a.strip().casefold()}\x00{b.strip().casefold()}"
            for a, b in zip(rows["text"], pairs, strict=True)
        ]

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Split:
        encoded = tokenizer(
            list(rows["text"]),
            list(rows["text_pair"]) if "text_pair" in rows else None,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
        )
        return as_split(encoded, tokenizer, self.targets(rows), rows)

    def targets(self, rows: Rows) -> NDArray[Any]:
        """What is learnt from each numbered row, (n, ...)."""
        return np.asarray(rows["label"], dtype=np.int64)

    def shown(self, rows: Rows) -> list[dict[str, Any]]:
        names = [name for name in ("text", "text_pair") if name in rows]
        return [{name: rows[name][at] for name in names} for at in range(len(rows))]
