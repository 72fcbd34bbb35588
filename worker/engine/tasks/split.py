"""Encoded rows: ragged token ids in one flat array, and batches padded to their longest row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

# Rows are shuffled, then sorted by length within this many batches: little padding, still random.
BATCHES_PER_BUCKET = 32


@dataclass(frozen=True)
class Batch:
    """`inputs` are the model's keyword arguments, each (b, longest); `index` the places of the rows."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """n encoded rows. Row i has the tokens `ids[offsets[i]:offsets[i + 1]]`.

    ids: (tokens,) token ids; offsets: (n + 1,); labels: (n,); segments: (tokens,) token type ids, or None
    where the tokenizer makes none; pad_id fills up shorter rows of a batch.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    pad_id: int
    segments: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (n,)."""
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.int64]:
        """Token ids of one row, unpadded."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def select(self, index: NDArray[np.int64]) -> Split:
        """The rows at `index`, in that order."""
        flat = self.flat_positions(index)
        return replace(
            self,
            ids=self.ids[flat],
            offsets=np.concatenate([[0], np.cumsum(self.lengths[index])]).astype(np.int64),
            labels=self.labels[index],
            segments=None if self.segments is None else self.segments[flat],
        )

    def flat_positions(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places in `ids` of the tokens of the rows at `index`, row after row, without padding."""
        lengths = self.lengths[index]
        starts = np.repeat(self.offsets[index] - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        return np.asarray(starts + np.arange(int(lengths.sum())), dtype=np.int64)

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The rows at `index`, padded to the longest of them."""
        lengths = self.lengths[index]
        mask = np.arange(int(lengths.max()))[None, :] < lengths[:, None]
        flat = self.flat_positions(index)
        inputs = {
            "input_ids": _padded(self.ids[flat], mask, self.pad_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        if self.segments is not None:
            inputs["token_type_ids"] = _padded(self.segments[flat], mask, 0)
        return Batch(inputs, torch.from_numpy(self.labels[index]), index)

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, bucketed: bool = True
    ) -> Iterator[Batch]:
        """All rows once, in batches; the last of a bucket may be smaller.

        `bucketed` puts rows of like length together. Without `shuffle_seed` the order is fixed:
        by length when bucketed, else that of the split.
        """
        for index in self._batch_indices(batch_size, shuffle_seed, bucketed):
            yield self.batch(index)

    def batch_count(self, batch_size: int) -> int:
        """How many batches `batches` yields."""
        return -(-len(self) // batch_size)

    def _batch_indices(
        self, batch_size: int, shuffle_seed: int | None, bucketed: bool
    ) -> list[NDArray[np.int64]]:
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


def _padded(values: NDArray[np.int64], mask: NDArray[np.bool_], fill: int) -> torch.Tensor:
    padded = np.full(mask.shape, fill, dtype=np.int64)
    padded[mask] = values
    return torch.from_numpy(padded)
