"""The part of a text that answers a question, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from models.spec import Columns, TaskName
from worker.engine.anatomy.heads import HeadKind
from worker.engine.errors import DatasetError, LabelError
from worker.engine.tasks import squad
from worker.engine.tasks.answers import POINTER, Answer, answers_of
from worker.engine.tasks.base import Task
from worker.engine.tasks.columns import check_given, check_parts, guess_column, is_text, texts_of
from worker.engine.tasks.encoding import as_split
from worker.engine.tasks.losses import mean_by_row, soft_loss
from worker.engine.tasks.marks import Marks
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Batch, Split
from worker.engine.tasks.windows import best_span, start_and_end, window_labels

ANSWER, NO_ANSWER = "answer", "no answer"
LEAST_LENGTH = 32  # tokens, of which a question takes half at most
STRIDE = 0.25  # of a window: what it shares with the one before it


class QuestionAnswering(Task):
    """Cross-entropy of the answer's first and last token, mean of both and over a row's windows.

    A context longer than `max_length` leaves room for is cut into windows that overlap by a quarter; a window
    without the answer has its first token for it, as has one of a question without answer. Every window is
    asked, and the best of their answers counts. Marks are the F1 and the exact match of each row.
    """

    name: ClassVar[TaskName] = "question-answering"
    head: ClassVar[HeadKind] = "span"

    def map_columns(self, table: pa.Table, given: Columns) -> Columns:
        check_given(table, given)
        question = given.question or guess_column(
            table, "question", (("question",), ("query",)), is_text, "a question", by_name=True
        )
        context = given.context or guess_column(
            table,
            "context",
            (("context",), ("passage", "paragraph", "document", "text")),
            is_text,
            "the text that holds the answer",
            taken=[question],
        )
        answers = given.answers or guess_column(
            table,
            "answers",
            (("answers",), ("answer",)),
            lambda kind: bool(pa.types.is_struct(kind) or pa.types.is_list(kind)),
            "answers",
        )
        check_parts(table, [question, context, answers])
        return Columns(question=question, context=context, answers=answers)

    def label_columns(self, columns: Columns) -> list[str]:
        return [str(columns.answers)]

    def read(self, table: pa.Table, columns: Columns) -> Rows:
        contexts = texts_of(table, str(columns.context), "context")
        return Rows(
            {
                "question": texts_of(table, str(columns.question), "question"),
                "context": contexts,
                "label": answers_of(table, str(columns.answers), contexts),
            }
        )

    def withheld(self, rows: Rows, known: Sequence[str]) -> Rows:
        """A split of nothing but questions without answers has withheld them."""
        return rows if any(rows["label"]) else rows.with_part("label", [None] * len(rows))

    def label_set(self, rows: Rows, table: pa.Table, columns: Columns) -> tuple[str, ...]:
        """Whether there are questions without answers too."""
        unanswered = sum(not answers for answers in rows["label"])
        if unanswered == len(rows):
            raise LabelError(
                "no training row has an answer",
                remedy="give answers with text and answer_start, or name their column",
                pointer=POINTER,
            )
        return (ANSWER, NO_ANSWER) if unanswered else (ANSWER,)

    def numbered(self, rows: Rows, labels: tuple[str, ...], split: str) -> Rows:
        if NO_ANSWER not in labels and not all(rows["label"]):
            raise LabelError(
                f"the {split} split has questions without an answer, and the training split has none",
                remedy="add such training rows, or take the rows out of the holdout",
                pointer=POINTER,
            )
        return rows.with_part("label", list(rows["label"]), labels)

    def strata(self, rows: Rows) -> NDArray[np.int64]:
        return np.array([int(bool(answers)) for answers in rows["label"]], dtype=np.int64)

    def texts(self, rows: Rows) -> list[str]:
        """The contexts: what is asked about one text is never asked on two sides of a split."""
        return [context.strip().casefold() for context in rows["context"]]

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Split:
        if max_length < LEAST_LENGTH:
            raise DatasetError(
                f"windows of {max_length} tokens have no room for question and context",
                remedy=f"set baseline.max_length to {LEAST_LENGTH} or more, better to 384",
                pointer="/baseline/max_length",
            )
        encoded = tokenizer(
            _cut_questions(rows["question"], tokenizer, max_length // 2),
            list(rows["context"]),
            truncation="only_second",
            max_length=max_length,
            stride=int(max_length * STRIDE),
            padding=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
        )
        owner = np.asarray(encoded["overflow_to_sample_mapping"], dtype=np.int64)
        spans = [_in_context(encoded, window) for window in range(len(owner))]
        labels = [
            window_labels(own, _first(rows["label"][row])) for own, row in zip(spans, owner, strict=True)
        ]
        return as_split(
            encoded,
            tokenizer,
            np.concatenate(labels),
            rows,
            by_token=True,
            starts=np.searchsorted(owner, np.arange(len(rows) + 1)).astype(np.int64),
            spans=np.concatenate(spans),
        )

    def losses(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        scores = _over_real_tokens(logits.float(), batch)
        targets = start_and_end(batch.labels).to(logits.device)
        both = functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
        return mean_by_row(both.view(-1, 2).mean(dim=1), batch)

    def soft_loss(
        self, logits: torch.Tensor, taught: torch.Tensor, batch: Batch, temperature: float
    ) -> torch.Tensor:
        return soft_loss(_over_real_tokens(logits, batch), _over_real_tokens(taught, batch), temperature)

    def answers(self, logits: NDArray[np.float32], split: Split) -> list[str]:
        """The text of each row's answer; empty where there is none."""
        if split.spans is None or split.source is None:
            raise ValueError("answers need the contexts that the split was made of")
        may_be_none = NO_ANSWER in split.source.labels
        found = []
        for row, context in enumerate(split.source["context"]):
            best, none = None, np.inf
            for window in range(split.row_starts[row], split.row_starts[row + 1]):
                part = slice(split.offsets[window], split.offsets[window + 1])
                none = min(none, float(logits[part][0].sum()))
                here = best_span(logits[part], split.spans[part])
                best = here if best is None or (here is not None and here > best) else best
            answered = best is not None and not (may_be_none and none > best.score)
            found.append(context[best.first : best.end] if answered and best is not None else "")
        return found

    def marks(self, logits: NDArray[np.float32], split: Split) -> Marks:
        references = self.expected(split.source) if split.source is not None else []
        pairs = list(zip(self.answers(logits, split), references, strict=True))
        values = [[squad.f1(*pair), squad.exact_match(*pair)] for pair in pairs]
        return Marks(np.asarray(values, dtype=np.float64))

    def score(self, name: str, marks: Marks) -> float:
        return float(marks.values[:, ("f1", "exact_match").index(name)].mean())

    def right(self, marks: Marks) -> NDArray[np.bool_]:
        """Rows with an exact match."""
        return np.asarray(marks.values[:, 1] == 1)

    def is_share_of_right(self, name: str) -> bool:
        return name == "exact_match"

    def expected(self, rows: Rows) -> list[list[str]]:
        """All answers that do for each row."""
        return [[answer["text"] for answer in answers] for answers in rows["label"]]

    def shown(self, rows: Rows) -> list[dict[str, Any]]:
        return [{part: rows[part][at] for part in ("question", "context")} for at in range(len(rows))]


def _first(answers: list[Answer]) -> Answer | None:
    return answers[0] if answers else None


def _cut_questions(questions: Any, tokenizer: PreTrainedTokenizerBase, most: int) -> list[str]:
    """Questions of at most `most` tokens."""
    encoded = tokenizer(
        list(questions),
        add_special_tokens=False,
        truncation=True,
        max_length=most,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    ends = [spans[-1][1] if spans else 0 for spans in encoded["offset_mapping"]]
    return [question[:end] for question, end in zip(questions, ends, strict=True)]


def _in_context(encoded: Any, window: int) -> NDArray[np.int64]:
    """Characters of the context that each token of a window stands for, (tokens, 2); -1 for other tokens."""
    spans = np.asarray(encoded["offset_mapping"][window], dtype=np.int64)
    spans[[text != 1 for text in encoded.sequence_ids(window)]] = -1
    return spans


def _over_real_tokens(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(sequences, length, 2) as (sequences, 2, length), minus infinity where there is padding."""
    padding = ~batch.mask.to(logits.device)
    return logits.transpose(1, 2).masked_fill(padding[:, None, :], float("-inf"))
