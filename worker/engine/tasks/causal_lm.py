"""What comes next in a text: the task of language models."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from models.spec import Columns, TaskName
from worker.engine.anatomy.heads import HeadKind
from worker.engine.errors import DatasetError
from worker.engine.tasks.base import Task
from worker.engine.tasks.columns import (
    TEXT_NAMES,
    check_given,
    check_parts,
    guess_column,
    is_text,
    texts_of,
)
from worker.engine.tasks.encoding import flat
from worker.engine.tasks.losses import soft_loss
from worker.engine.tasks.marks import Marks
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import IGNORED, Batch, Split

STRETCHES = 100  # into which a split's rows are cut: each is on one side of a split as a whole


class CausalLanguageModelling(Task):
    """Cross-entropy of each next token, mean over the tokens of a block.

    The rows of a split are one text, as they follow each other, with the tokenizer's end-of-text token after
    each. It is cut into blocks of `max_length` tokens, of which the first is the last of the block before: so
    every token but the text's first is predicted, once, from what its block has of the text before it. The
    blocks are the rows that are judged. Perplexity is exp of the mean loss over all predicted tokens. Marks
    are a block's loss, predicted tokens, and those that were thought the likeliest.
    """

    name: ClassVar[TaskName] = "causal-lm"
    head: ClassVar[HeadKind] = "causal"
    disturbs: ClassVar[bool] = False
    notes: ClassVar[tuple[str, ...]] = (
        "A row is a block of baseline.max_length tokens of the holdout's text, from which each next token is "
        "predicted; perplexity is over all of these.",
        "Latency, throughput and speedup are those of one pass over whole blocks, without a cache, as texts "
        "are scored and prompts are read; what a generated token takes was not measured.",
    )

    def map_columns(self, table: pa.Table, given: Columns) -> Columns:
        check_given(table, given)
        text = given.text or guess_column(table, "text", TEXT_NAMES, is_text, "text")
        check_parts(table, [text])
        return Columns(text=text)

    def label_columns(self, columns: Columns) -> list[str]:
        """The text itself says what comes next."""
        return [str(columns.text)]

    def has_labels(self, rows: Rows) -> bool:
        return any(text is not None for text in rows["text"])

    def read(self, table: pa.Table, columns: Columns) -> Rows:
        return Rows({"text": texts_of(table, str(columns.text), "text")})

    def label_set(self, rows: Rows, table: pa.Table, columns: Columns) -> tuple[str, ...]:
        """None: what is predicted are the tokenizer's tokens."""
        return ()

    def numbered(self, rows: Rows, labels: tuple[str, ...], split: str) -> Rows:
        return rows

    def strata(self, rows: Rows) -> NDArray[np.int64]:
        return np.zeros(len(rows), dtype=np.int64)

    def texts(self, rows: Rows) -> list[str]:
        """The stretch of the text that each row is in: neighbours, each other's context, stay together."""
        size = -(-len(rows) // STRETCHES)
        return [str(row // size) for row in range(len(rows))]

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Split:
        """Rows of the split are blocks; its source holds their texts."""
        stream = _stream(rows["text"], tokenizer)
        if len(stream) < 2:
            raise DatasetError(
                "the text has no token from which a next one could be predicted",
                remedy="give more text",
                pointer="/dataset",
            )
        starts = np.arange(0, len(stream) - 1, max_length - 1)
        blocks = [stream[start : start + max_length] for start in starts]
        lengths = np.array([len(block) for block in blocks], dtype=np.int64)
        ends = np.cumsum(lengths)
        ids = np.concatenate(blocks)
        labels = np.append(ids[1:], IGNORED)
        labels[ends - 1] = IGNORED  # the last token of a block has none after it
        return Split(
            ids=ids,
            offsets=np.concatenate([[0], ends]).astype(np.int64),
            labels=labels,
            pad_id=int(tokenizer.pad_token_id or 0),
            by_token=True,
            source=Rows({"text": tokenizer.batch_decode([block.tolist() for block in blocks])}),
            token_outputs=len(tokenizer),
        )

    def kept(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """(s, length, 2): see `next_token_scores`; 0 where no token follows."""
        losses, asked = _token_losses(logits, batch)
        hits = (logits.argmax(-1) == batch.labels.to(logits.device)) & asked
        return torch.stack((-losses, hits.to(losses.dtype)), dim=-1)

    def losses(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        losses, asked = _token_losses(logits, batch)
        return losses.sum(1) / asked.sum(1)

    def soft_loss(
        self, logits: torch.Tensor, taught: torch.Tensor, batch: Batch, temperature: float
    ) -> torch.Tensor:
        real = batch.mask.to(logits.device)
        return soft_loss(logits[real], taught[real], temperature)

    def answers(self, logits: NDArray[np.float32], split: Split) -> list[float]:
        """The perplexity of each block."""
        losses, asked, _ = self.marks(logits, split).values.T
        return [round(float(value), 4) for value in np.exp(losses / asked)]

    def marks(self, logits: NDArray[np.float32], split: Split) -> Marks:
        """Of logits as they are `kept`."""
        starts = split.offsets[:-1]
        likelihoods, hits = (np.add.reduceat(part.astype(np.float64), starts) for part in logits.T)
        return Marks(np.stack([-likelihoods, split.sequence_lengths - 1, hits], axis=1))

    def score(self, name: str, marks: Marks) -> float:
        """Perplexity, of which less is better, is negated."""
        losses, asked, hits = marks.values.sum(axis=0)
        return float(hits / asked) if name == "accuracy" else -float(np.exp(losses / asked))

    def right(self, marks: Marks) -> NDArray[np.bool_]:
        """No block is right or wrong as a whole."""
        return np.zeros(len(marks), dtype=np.bool_)

    def expected(self, rows: Rows) -> list[None]:
        return [None] * len(rows)

    def shown(self, rows: Rows) -> list[dict[str, Any]]:
        return [{"text": text} for text in rows["text"]]


def _stream(texts: Any, tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """The tokens of all texts, each with the end-of-text token behind it, where the tokenizer has one."""
    if not texts:
        return np.zeros(0, dtype=np.int64)
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return flat([[*ids, *end] for ids in encoded])


def _token_losses(logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(s, length): the cross-entropy at each token, 0 where none follows, and whether one does."""
    labels = batch.labels.to(logits.device)
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(labels.shape), labels != IGNORED
