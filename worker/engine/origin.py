"""A model that decisions begin with, its tokenizer, and the rows of the data as that tokenizer cuts them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from worker.engine.anatomy import Anatomy, anatomy_of
from worker.engine.anatomy.low_rank import noted_moments
from worker.engine.anatomy.vocabulary import note_counts
from worker.engine.export.safetensors import load_folder
from worker.engine.measure.inputs import BenchInputs
from worker.engine.prepare import load_tokenizer
from worker.engine.tasks import Rows, Scorer, Split, evaluate

if TYPE_CHECKING:
    from worker.engine.run import Run

MOMENT_ROWS = 128  # of the training rows, for the second moments of the FFN's inputs


class Origin:
    """The model and tokenizer of a folder that the engine wrote, loaded when first needed.

    `name` is None for the dense model.
    """

    def __init__(self, run: Run, folder: Path, name: str | None = None) -> None:
        self._run = run
        self.folder = folder
        self.name = name

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.folder)

    @cached_property
    def anatomy(self) -> Anatomy:
        """The model's anatomy, on the run's device, in evaluation mode."""
        return anatomy_of(load_folder(self.folder).to(self._run.device.torch_device))

    @cached_property
    def informed_anatomy(self) -> Anatomy:
        """The anatomy, whose low-rank forms are from now on those that are best for the training rows."""
        run, anatomy = self._run, self.anatomy
        rows = cast(nn.Embedding, anatomy.model.get_input_embeddings()).num_embeddings
        note_counts(anatomy.model, torch.from_numpy(np.bincount(self.train.ids, minlength=rows)))
        if run.may_thin_ffn:
            chosen = np.random.default_rng(run.spec.seed).permutation(len(self.train))[:MOMENT_ROWS]
            rows_seen = self.train.select(chosen)
            with noted_moments(anatomy):
                evaluate(anatomy.model, rows_seen, run.task, device=run.device)
        return anatomy

    @cached_property
    def train(self) -> Split:
        return self.encoded(self._run.data.train())

    @cached_property
    def selection(self) -> Split:
        return self.encoded(self._run.data.selection())

    @cached_property
    def scorer(self) -> Scorer:
        """The job's score on the selection split."""
        return Scorer(self._run.task, self._run.spec.metric, self.selection)

    def encoded(self, rows: Rows) -> Split:
        """The rows as this tokenizer's ids."""
        return self._run.task.encode(rows, self.tokenizer, max_length=self._run.max_length)

    def length(self) -> int:
        """Tokens of one sequence of the target, as MACs count them: the mean of the data's, rounded."""
        asked = self._run.spec.target.sequence_length
        return round(float(self.selection.sequence_lengths.mean())) if asked == "data" else asked

    def timed_inputs(self) -> BenchInputs:
        """Selection rows as the target meets them, for measurements before the certificate.

        The same rows for every origin of a run, where these are cut into as many sequences.
        """
        target, (ids, types) = self._run.spec.target, token_rows(self.selection)
        return BenchInputs.sample(
            ids,
            batch_size=target.batch_size,
            sequence_length=target.sequence_length,
            pad_id=self.selection.pad_id,
            token_types=types,
            choices=self.selection.choices,
            seed=self._run.spec.seed,
        )


def bench_inputs(split: Split, *, batch_size: int) -> BenchInputs:
    """All rows of a split in their order, as a target with that batch size meets them."""
    ids, types = token_rows(split)
    return BenchInputs.in_order(
        ids,
        batch_size=batch_size,
        pad_id=split.pad_id,
        token_types=types,
        choices=split.choices,
        next_token=split.token_outputs > 0,
    )


def token_rows(split: Split) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Token ids and token types sequence by sequence, unpadded; no types where the tokenizer makes none."""
    cuts = split.offsets[1:-1]
    types = None if split.segments is None else np.split(split.segments, cuts)
    return np.split(split.ids, cuts), types
