"""Token ids as a model is fed them: ragged rows, grouped in batches, padded within the batch.

Imports numpy only: the probe process reads its inputs through this module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Rows = Sequence[Sequence[int] | Ints]


@dataclass(frozen=True)
class BenchInputs:
    """Sequences of token ids and the batches they come in.

    `ids` holds one array a sequence; batch b is the sequences `starts[b]` to `starts[b + 1]`. `token_types`
    has the lengths of `ids`, or is None for a task of single texts (they are then all zero). `choices` is
    how many sequences make one example where the model takes them together, else None. `next_token`: what a
    model answers is about the token that follows, and is kept as `next_token_scores`.
    """

    ids: tuple[Ints, ...]
    starts: tuple[int, ...]
    pad_id: int = 0
    token_types: tuple[Ints, ...] | None = None
    choices: int | None = None
    next_token: bool = False

    @classmethod
    def in_order(
        cls,
        ids: Rows,
        *,
        batch_size: int,
        pad_id: int = 0,
        token_types: Rows | None = None,
        choices: int | None = None,
        next_token: bool = False,
    ) -> BenchInputs:
        """All sequences in order, `batch_size` examples at a time. Raises ValueError without any."""
        rows = _as_rows(ids)
        if not rows:
            raise ValueError("no rows to feed the model")
        if any(row.size == 0 for row in rows):
            raise ValueError("a row without tokens cannot be fed to the model")
        starts = (*range(0, len(rows), batch_size * (choices or 1)), len(rows))
        types = None if token_types is None else _as_rows(token_types)
        return cls(rows, starts, pad_id, types, choices, next_token)

    @classmethod
    def sample(
        cls,
        ids: Rows,
        *,
        batch_size: int,
        sequence_length: Literal["data"] | int = "data",
        pad_id: int = 0,
        token_types: Rows | None = None,
        choices: int | None = None,
        calls: int = 64,
        seed: int = 0,
    ) -> BenchInputs:
        """`calls` batches to time: a seeded sample of the examples in their natural order.

        With a number for `sequence_length` every sequence is cut or repeated to that many tokens. Examples
        are used again when there are fewer than calls * batch_size.
        """
        if len(ids) == 0:
            raise ValueError("no rows to feed the model")
        together = choices or 1
        examples = np.sort(_drawn(len(ids) // together, calls * batch_size, seed))
        order = [int(place) for first in examples * together for place in range(first, first + together)]
        types = None if token_types is None else [token_types[i] for i in order]
        picked = [ids[i] for i in order]
        if sequence_length != "data":
            picked = [_resized(row, sequence_length) for row in picked]
            types = None if types is None else [_resized(row, sequence_length) for row in types]
        return cls.in_order(picked, batch_size=batch_size, pad_id=pad_id, token_types=types, choices=choices)

    @property
    def calls(self) -> int:
        return len(self.starts) - 1

    @property
    def rows(self) -> int:
        return len(self.ids)

    def examples_in(self, calls: int) -> int:
        """Examples in the first `calls` batches."""
        return self.starts[calls] // (self.choices or 1)

    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(sequences, padded length) of every batch."""
        return tuple((b - a, max(row.size for row in self.ids[a:b])) for a, b in self._bounds())

    def digest(self) -> str:
        """SHA-256 of the batches' shapes: what latency depends on, whatever the tokens are."""
        return hashlib.sha256(repr(self.shapes()).encode()).hexdigest()

    def batches(self) -> Iterator[dict[str, Ints]]:
        """Padded `input_ids`, `attention_mask` and `token_type_ids`, each [sequences, length]."""
        for first, end in self._bounds():
            rows = self.ids[first:end]
            types = self.token_types[first:end] if self.token_types is not None else None
            yield {
                "input_ids": _padded(rows, self.pad_id),
                "attention_mask": _padded([np.ones_like(row) for row in rows], 0),
                "token_type_ids": _padded(types or [np.zeros_like(row) for row in rows], 0),
            }

    def stacked(self, batch: dict[str, Ints]) -> dict[str, Ints]:
        """A batch as the model takes it: [examples, choices, length] where it takes choices together."""
        if self.choices is None:
            return batch
        return {name: values.reshape(-1, self.choices, values.shape[1]) for name, values in batch.items()}

    def save(self, path: Path) -> None:
        """Write an .npz that `load` reads."""
        arrays: dict[str, Any] = {
            "ids": np.concatenate(self.ids),
            "lengths": np.array([row.size for row in self.ids], dtype=np.int64),
            "starts": np.array(self.starts, dtype=np.int64),
            "pad_id": np.int64(self.pad_id),
            "choices": np.int64(self.choices or 0),
            "next_token": np.bool_(self.next_token),
        }
        if self.token_types is not None:
            arrays["token_types"] = np.concatenate(self.token_types)
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> BenchInputs:
        with np.load(path, allow_pickle=False) as stored:
            cuts = np.cumsum(stored["lengths"])[:-1]
            types = np.split(stored["token_types"], cuts) if "token_types" in stored else None
            return cls(
                tuple(np.split(stored["ids"], cuts)),
                tuple(int(start) for start in stored["starts"]),
                int(stored["pad_id"]),
                None if types is None else tuple(types),
                int(stored["choices"]) or None,
                bool(stored["next_token"]),
            )

    def _bounds(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts[:-1], self.starts[1:], strict=True)


def next_token_scores(logits: npt.NDArray[np.float32], ids: Ints, mask: Ints) -> npt.NDArray[np.float32]:
    """What a language model's logits (sequences, length, words) say about the token that really follows each.

    (sequences, length, 2): its log-probability, and 1 where it was the likeliest; 0 where no token follows.
    """
    scores = np.zeros((*ids.shape, 2), dtype=np.float32)
    for row, count in enumerate(mask.sum(axis=1)):
        given, following = logits[row, : count - 1].astype(np.float64), ids[row, 1:count]
        largest = given.max(axis=-1, keepdims=True, initial=-np.inf)
        norms = np.log(np.exp(given - largest).sum(axis=-1)) + largest[:, 0]
        scores[row, : count - 1, 0] = given[np.arange(count - 1), following] - norms
        scores[row, : count - 1, 1] = given.argmax(axis=-1) == following
    return scores


def _as_rows(ids: Rows) -> tuple[Ints, ...]:
    return tuple(np.asarray(row, dtype=np.int64) for row in ids)


def _drawn(available: int, wanted: int, seed: int) -> Ints:
    whole, rest = divmod(wanted, available)
    drawn = np.random.default_rng(seed).choice(available, size=rest, replace=False)
    return np.concatenate([np.tile(np.arange(available), whole), drawn]).astype(np.int64)


def _resized(row: Sequence[int] | Ints, length: int) -> Ints:
    return np.resize(np.asarray(row, dtype=np.int64), length)


def _padded(rows: Sequence[Ints], fill: int) -> Ints:
    out = np.full((len(rows), max(row.size for row in rows)), fill, dtype=np.int64)
    for row, values in zip(out, rows, strict=True):
        row[: values.size] = values
    return out
