"""Token ids of a tokenizer's answer, flat, as splits hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Split


def as_split(
    encoded: Any, tokenizer: PreTrainedTokenizerBase, labels: NDArray[Any], source: Rows, **parts: Any
) -> Split:
    """The split of what `tokenizer` answered without padding; `parts` are further fields of it."""
    ids: list[list[int]] = encoded["input_ids"]
    segments: list[list[int]] | None = encoded.get("token_type_ids")
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    return Split(
        ids=flat(ids),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=labels,
        pad_id=int(tokenizer.pad_token_id or 0),
        segments=None if segments is None else flat(segments),
        source=source,
        **parts,
    )


def flat(rows: list[list[int]]) -> NDArray[np.int64]:
    """All rows after each other, (tokens,)."""
    return np.fromiter((token for row in rows for token in row), dtype=np.int64)
