"""Encoded rows: ragged token ids in one flat array, and batches padded to their longest sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.engine.tasks.rows import Rows

# Rows are shuffled, then sorted by length within this many batches: little padding, still random.
BATCHES_PER_BUCKET = 32
IGNORED = -100
"""The label of a token that has none."""


@dataclass(frozen=True)
class Batch:
    """b rows as s sequences; s is b but for tasks that give a row several sequences.

    `inputs` are the model's keyword arguments, each (s, longest), or (b, choices, longest) where the
    split is `stacked`; `labels` those of the rows, (b, ...), or (s, longest) where tokens have them;
    `index` the places of the rows in the split, (b,); `rows` the row in the batch of each sequence, (s,).
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    index: NDArray[np.int64]
    rows: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """(s, longest) booleans: true where a token is real."""
        mask = self.inputs["attention_mask"]
        return mask.reshape(-1, mask.shape[-1]).bool()


@dataclass(frozen=True)
class Split:
    """n encoded rows, each one sequence of tokens, or several.

    Sequence j has the tokens `ids[offsets[j]:offsets[j + 1]]`.
    ids: (tokens,) token ids; offsets: (sequences + 1,); labels: (n, ...), or (tokens,) where `by_token`;
    segments: (tokens,) token type ids, or None where the tokenizer makes none; pad_id fills up shorter
    sequences of a batch; starts: (n + 1,), row i has the sequences `starts[i]` to `starts[i + 1]`, None where
    each has one; stacked: whether the model takes a row's sequences as one example (choices, length);
    spans: (tokens, 2) first and last character of each token in the text that answers are taken from, -1
    outside it; source: the rows that were encoded, for tasks that judge by more than labels; token_outputs:
    how many logits each token has where they are as many as words, else 0.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[Any]
    pad_id: int
    segments: NDArray[np.int64] | None = None
    starts: NDArray[np.int64] | None = None
    by_token: bool = False
    stacked: bool = False
    spans: NDArray[np.int64] | None = None
    source: Rows | None = None
    token_outputs: int = 0

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    @property
    def row_starts(self) -> NDArray[np.int64]:
        """The first sequence of each row, and their number at the end, (n + 1,)."""
        return np.arange(len(self.offsets), dtype=np.int64) if self.starts is None else self.starts

    @property
    def sequence_lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, (sequences,)."""
        return np.diff(self.offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (n,)."""
        return np.diff(self.offsets[self.row_starts])

    @property
    def choices(self) -> int | None:
        """Sequences of every row where the model takes them together, else None."""
        return int(np.diff(self.row_starts)[0]) if self.stacked else None

    def row(self, index: int) -> NDArray[np.int64]:
        """Token ids of one row, unpadded."""
        first, end = self.offsets[self.row_starts[[index, index + 1]]]
        return self.ids[first:end]

    def select(self, index: NDArray[np.int64]) -> Split:
        """The rows at `index`, in that order."""
        flat = self.flat_positions(index)
        sequences, counts = self._sequences(index)
        return replace(
            self,
            ids=self.ids[flat],
            offsets=_ends(self.sequence_lengths[sequences]),
            labels=self.labels[flat if self.by_token else index],
            segments=None if self.segments is None else self.segments[flat],
            starts=None if self.starts is None else _ends(counts),
            spans=None if self.spans is None else self.spans[flat],
            source=None if self.source is None else self.source.take(index),
        )

    def flat_positions(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places in `ids` of the tokens of the rows at `index`, row after row, without padding."""
        return _ranges(self.offsets[self.row_starts[index]], self.lengths[index])

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The rows at `index`, padded to the longest of their sequences."""
        sequences, counts = self._sequences(index)
        lengths = self.sequence_lengths[sequences]
        mask = np.arange(int(lengths.max()))[None, :] < lengths[:, None]
        flat = self.flat_positions(index)
        inputs = {
            "input_ids": _padded(self.ids[flat], mask, self.pad_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        if self.segments is not None:
            inputs["token_type_ids"] = _padded(self.segments[flat], mask, 0)
        if self.stacked:
            inputs = {name: values.reshape(len(index), -1, mask.shape[1]) for name, values in inputs.items()}
        labels = (
            _padded(self.labels[flat], mask, IGNORED)
            if self.by_token
            else torch.from_numpy(self.labels[index])
        )
        return Batch(inputs, labels, index, torch.from_numpy(np.repeat(np.arange(len(index)), counts)))

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, bucketed: bool = True
    ) -> Iterator[Batch]:
        """All rows once, in batches; the last of a bucket may be smaller.

        `bucketed` puts rows of like length together. Without `shuffle_seed` the order is fixed:
        by length when bucketed, else that of the split.
        """
        for index in self.batch_indices(batch_size, shuffle_seed=shuffle_seed, bucketed=bucketed):
            yield self.batch(index)

    def batch_count(self, batch_size: int) -> int:
        """How many batches `batches` yields."""
        return -(-len(self) // batch_size)

    def _sequences(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sequences of the rows at `index`, row after row, and how many each has."""
        starts = self.row_starts
        counts = starts[index + 1] - starts[index]
        return _ranges(starts[index], counts), counts

    def batch_indices(
        self, batch_size: int, *, shuffle_seed: int | None = None, bucketed: bool = True
    ) -> list[NDArray[np.int64]]:
        """The rows of each batch that `batches` yields."""
        if shuffle_seed is None:
            order = np.argsort(self.lengths, kind="stable") if bucketed else np.arange(len(self))
            return _cut(order, batch_size)
        generator = np.random.default_rng(shuffle_seed)
        order = generator.permutation(len(self))
        if not bucketed:
            return _cut(order, batch_size)
        batches = [
            part
            for bucket in _cut(order, batch_size * BATCHES_PER_BUCKET)
            for part in _cut(bucket[np.argsort(self.lengths[bucket], kind="stable")], batch_size)
        ]
        return [batches[place] for place in generator.permutation(len(batches))]


def _cut(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _ends(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 and the running sums: where each of so many begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[0], starts[0] + 1, ... `counts[0]` of them, then as many from starts[1], and so on."""
    gaps = np.repeat(starts - _ends(counts)[:-1], counts)
    return np.asarray(gaps + np.arange(int(counts.sum())), dtype=np.int64)


def _padded(values: NDArray[np.int64], mask: NDArray[np.bool_], fill: int) -> torch.Tensor:
    padded = np.full(mask.shape, fill, dtype=np.int64)
    padded[mask] = values
    return torch.from_numpy(padded)
