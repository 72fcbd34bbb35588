"""A tag for every word of a text, such as the names in it."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from models.spec import Columns, MetricName, TaskName
from worker.engine.anatomy.heads import HeadKind
from worker.engine.errors import LabelError
from worker.engine.tasks.base import Task
from worker.engine.tasks.columns import check_given, check_parts, guess_column, is_list_of, is_text
from worker.engine.tasks.encoding import as_split
from worker.engine.tasks.entities import entities, entity_types, is_iob
from worker.engine.tasks.labels import POINTER, hub_label_order, in_order, label_list_ids, label_lists
from worker.engine.tasks.losses import mean_by_row, soft_loss
from worker.engine.tasks.marks import ClassScores, Marks, class_scores, ratio
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import IGNORED, Batch, Split

TOKEN_NAMES = (("tokens",), ("words", "text", "sentence"))
TAG_NAMES = (("ner_tags", "tags", "labels", "label"), ("pos_tags", "chunk_tags", "ner", "pos", "ner_labels"))


class TokenClassification(Task):
    """Cross-entropy over the tags of a word's first token; a row's loss is the mean over its words.

    Words are joined by blanks, as the text is that a user will have. A word that the cut at `max_length`
    takes away, or of which the tokenizer makes nothing, is neither learnt nor judged. Scores other than
    accuracy are of whole entities, over all rows (the CoNLL measure, as seqeval has it); marks are words
    answered rightly, words, and by type of entity those answered rightly, answered, and held.
    """

    name: ClassVar[TaskName] = "token-classification"
    head: ClassVar[HeadKind] = "token"

    def map_columns(self, table: pa.Table, given: Columns) -> Columns:
        check_given(table, given)
        tags = given.label or guess_column(
            table, "label", TAG_NAMES, _is_tags, "lists of tags", taken=[given.tokens or _tokens(table)]
        )
        tokens = given.tokens or guess_column(
            table, "tokens", TOKEN_NAMES, _is_words, "lists of words", taken=[tags]
        )
        check_parts(table, [tokens, tags])
        return Columns(tokens=tokens, label=tags)

    def read(self, table: pa.Table, columns: Columns) -> Rows:
        words, tags = _words(table, str(columns.tokens)), label_lists(table, str(columns.label))
        for number, (own, theirs) in enumerate(zip(words, tags, strict=True), 1):
            if own is not None and theirs is not None and len(own) != len(theirs):
                raise LabelError(
                    f"row {number} has {len(own)} words in column {columns.tokens!r} and {len(theirs)} tags "
                    f"in column {columns.label!r}",
                    remedy="give one tag for each word",
                    pointer=POINTER,
                )
        return Rows({"tokens": words, "label": tags})

    def label_set(self, rows: Rows, table: pa.Table, columns: Columns) -> tuple[str, ...]:
        """All tags of the hub's list, those that training lacks too; else those that are there."""
        present = {tag for tags in rows["label"] for tag in tags}
        if len(present) < 2:
            raise LabelError(
                f"the training rows have {len(present)} different tags; at least two are needed",
                remedy="give training rows with entities in them, or name another column of tags",
                pointer=POINTER,
            )
        return hub_label_order(table, str(columns.label)) or _with_beginnings(in_order(present, ()))

    def check_metric(self, labels: tuple[str, ...], metric: MetricName) -> None:
        if metric != "accuracy" and not is_iob(labels):
            strange = next(tag for tag in labels if not is_iob((tag, "B-")))
            raise LabelError(
                f"metric {metric} counts entities, and the tag {strange!r} is none of O, B-... and I-...",
                remedy="give tags in the form IOB2, or set metric: accuracy",
                pointer="/metric",
            )

    def numbered(self, rows: Rows, labels: tuple[str, ...], split: str) -> Rows:
        return rows.with_part("label", label_list_ids(rows["label"], labels, split), labels)

    def strata(self, rows: Rows) -> NDArray[np.int64]:
        """A row counts for the rarest of its tags."""
        counts = np.bincount([tag for tags in rows["label"] for tag in tags], minlength=len(rows.labels))
        return np.array([min(set(tags), key=lambda tag: counts[tag], default=-1) for tags in rows["label"]])

    def texts(self, rows: Rows) -> list[str]:
        return [" ".join(words).strip().casefold() for words in rows["tokens"]]

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Split:
        encoded = tokenizer(
            [" ".join(words) for words in rows["tokens"]],
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
        )
        labels = [
            _aligned(words, tags, spans)
            for words, tags, spans in zip(
                rows["tokens"], rows["label"], encoded["offset_mapping"], strict=True
            )
        ]
        return as_split(encoded, tokenizer, np.concatenate(labels), rows, by_token=True)

    def losses(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        labels = batch.labels.to(logits.device)
        each = functional.cross_entropy(
            logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )
        return mean_by_row(each.sum(dim=1) / (labels != IGNORED).sum(dim=1).clamp_min(1), batch)

    def soft_loss(
        self, logits: torch.Tensor, taught: torch.Tensor, batch: Batch, temperature: float
    ) -> torch.Tensor:
        real = batch.mask.to(logits.device)
        return soft_loss(logits[real], taught[real], temperature)

    def marks(self, logits: NDArray[np.float32], split: Split) -> Marks:
        answered, held = _tag_ids(logits.argmax(axis=1), split), _tag_ids(split.labels, split)
        labels = split.source.labels if split.source is not None else ()
        types = entity_types(labels)
        values = np.zeros((len(split), 2 + 3 * len(types)))
        values[:, 0] = [np.sum(a == h) for a, h in zip(answered, held, strict=True)]
        values[:, 1] = [len(h) for h in held]
        if types:
            told = entities([[labels[tag] for tag in row] for row in answered])
            true = entities([[labels[tag] for tag in row] for row in held])
            for row, (a, h) in enumerate(zip(told, true, strict=True)):
                for place, found in enumerate((a & h, a, h)):
                    for entity in found:
                        values[row, 2 + place * len(types) + types.index(entity.type)] += 1
        return Marks(values, len(types))

    def score(self, name: str, marks: Marks) -> float:
        if name == "accuracy":
            right, words = marks.values[:, :2].sum(axis=0)
            return float(right / words) if words else 0.0
        hits, answered, held = (counts.sum(keepdims=True) for counts in _counts(marks))
        parts = {"f1": (2 * hits, answered + held), "precision": (hits, answered), "recall": (hits, held)}
        return float(ratio(*parts[name])[0])

    def right(self, marks: Marks) -> NDArray[np.bool_]:
        """Rows of which every word is tagged as it is."""
        return np.asarray(marks.values[:, 0] == marks.values[:, 1])

    def classes(self, marks: Marks, labels: tuple[str, ...]) -> list[ClassScores]:
        return class_scores(entity_types(labels), *_counts(marks))

    def answers(self, logits: NDArray[np.float32], split: Split) -> list[list[str]]:
        labels = split.source.labels if split.source is not None else ()
        return [[labels[tag] for tag in row] for row in _tag_ids(logits.argmax(axis=1), split)]

    def expected(self, rows: Rows) -> list[list[str]]:
        return [[rows.labels[tag] for tag in tags] for tags in rows["label"]]

    def shown(self, rows: Rows) -> list[dict[str, Any]]:
        return [{"tokens": list(words)} for words in rows["tokens"]]


def _is_words(kind: pa.DataType) -> bool:
    return is_list_of(kind, is_text)


def _is_tags(kind: pa.DataType) -> bool:
    return is_list_of(kind, is_text) or is_list_of(kind, pa.types.is_integer)


def _tokens(table: pa.Table) -> str:
    """The column of words as its name tells it, so that it is not taken for the tags."""
    return next((name for name in table.column_names if name.lower() in TOKEN_NAMES[0]), "")


def _words(table: pa.Table, column: str) -> list[list[str] | None]:
    kind = table.schema.field(column).type
    if not _is_words(kind):
        raise LabelError(
            f"column {column!r} holds values of type {kind}, not lists of words",
            remedy="give lists of strings, or name another column in dataset.columns.tokens",
            pointer="/dataset/columns/tokens",
        )
    lists = table.column(column).to_pylist()
    return [None if not words or any(word is None for word in words) else words for words in lists]


def _with_beginnings(tags: tuple[str, ...]) -> tuple[str, ...]:
    """O first, as published models have it."""
    return tuple(sorted(tags, key=lambda tag: tag != "O"))


def _aligned(words: list[str], tags: list[int], spans: list[tuple[int, int]]) -> NDArray[np.int64]:
    """The tag of each word at its first token, (tokens,); `spans` are characters in the joined words."""
    starts = np.array([0, *accumulate(len(word) + 1 for word in words)])
    labels = np.full(len(spans), IGNORED, dtype=np.int64)
    last = -1
    for place, (first, end) in enumerate(spans):
        # Byte-level tokenizers count the blank before a word as its token's first character.
        word = int(np.searchsorted(starts, end - 1, side="right")) - 1
        if end > first and word > last:
            labels[place], last = tags[word], word
    return labels


def _tag_ids(tags: NDArray[np.int64], split: Split) -> list[NDArray[np.int64]]:
    """Of `tags` (tokens,) those of words, row by row."""
    judged = split.labels != IGNORED
    counts = np.add.reduceat(judged, split.offsets[split.row_starts[:-1]], dtype=np.int64)
    return np.split(tags[judged], np.cumsum(counts)[:-1])


def _counts(marks: Marks) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """By type of entity: answered rightly, answered, held."""
    hits, answered, held = np.split(marks.values[:, 2:].sum(axis=0), 3)
    return hits, answered, held
