"""One of several choices for a text, a question, or both."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from models.spec import Columns, TaskName
from worker.engine.anatomy.heads import HeadKind
from worker.engine.errors import ColumnError, LabelError
from worker.engine.tasks.columns import (
    check_given,
    check_parts,
    column_error,
    guess_column,
    is_list_of,
    is_text,
    texts_of,
)
from worker.engine.tasks.encoding import as_split
from worker.engine.tasks.labels import POINTER, label_ids, label_names
from worker.engine.tasks.rows import Rows
from worker.engine.tasks.single_label import SingleLabelTask
from worker.engine.tasks.split import Split

LABEL_NAMES = (("label", "labels"), ("answer", "answerkey", "answer_key", "gold", "correct"))
CHOICE_NAMES = (("choices", "options", "endings", "answers"),)
CHOICE_PREFIXES = ("choice", "option", "ending", "answer", "sol")
TEXT_NAMES = (
    ("context", "ctx", "article", "passage", "premise", "text", "sent1", "startphrase"),
    ("question", "sentence", "goal", "prompt", "stem"),
)


class MultipleChoice(SingleLabelTask):
    """Every choice is read with the text, and their scores are weighed against each other: cross-entropy.

    All rows have the same number of choices. Labels are places from 0 or from 1, or letters from A.
    """

    name: ClassVar[TaskName] = "multiple-choice"
    head: ClassVar[HeadKind] = "choice"

    def map_columns(self, table: pa.Table, given: Columns) -> Columns:
        check_given(table, given)
        label = given.label or guess_column(
            table, "label", LABEL_NAMES, _is_label, "the right choice", by_name=True
        )
        choices = given.choices or _guess_choices(table, label)
        taken = [label, *([choices] if isinstance(choices, str) else choices)]
        question = given.question
        text = given.text or guess_column(
            table, "text", TEXT_NAMES, is_text, "the text to choose for", taken=[*taken, question or ""]
        )
        if question is None and text.lower() != "question":
            lowered = {name.lower(): name for name in table.column_names}
            question = lowered.get("question")
        check_parts(table, [name for name in (text, question, *taken) if name is not None])
        return Columns(text=text, question=question, choices=choices, label=label)

    def read(self, table: pa.Table, columns: Columns) -> Rows:
        parts: dict[str, list[Any]] = {"text": texts_of(table, str(columns.text), "text")}
        if columns.question is not None:
            parts["question"] = texts_of(table, columns.question, "question")
        return Rows(
            {**parts, "choices": _choices(table, columns), "label": label_names(table, str(columns.label))}
        )

    def label_set(self, rows: Rows, table: pa.Table, columns: Columns) -> tuple[str, ...]:
        """How the places of the choices are written, the first one first."""
        counts = {len(choices) for choices in rows["choices"]}
        if len(counts) != 1 or 1 in counts:
            raise LabelError(
                f"the training rows have {', '.join(map(str, sorted(counts)))} choices",
                remedy="give all rows the same number of choices, two or more",
                pointer="/dataset/columns/choices",
            )
        count, present = counts.pop(), set(rows["label"])
        forms = (
            tuple(map(str, range(count))),
            tuple(map(str, range(1, count + 1))),
            tuple(chr(ord("A") + place) for place in range(count)),
            tuple(chr(ord("a") + place) for place in range(count)),
        )
        for form in forms:
            if present <= set(form):
                return form
        strange = sorted(present - set(forms[0]))[0]
        raise LabelError(
            f"the label {strange!r} names none of {count} choices",
            remedy=f"give labels 0 to {count - 1}, 1 to {count}, or letters from A",
            pointer=POINTER,
        )

    def numbered(self, rows: Rows, labels: tuple[str, ...], split: str) -> Rows:
        odd = next((len(choices) for choices in rows["choices"] if len(choices) != len(labels)), None)
        if odd is not None:
            raise LabelError(
                f"a row of the {split} split has {odd} choices where the training rows have {len(labels)}",
                remedy="give all rows the same number of choices",
                pointer="/dataset/columns/choices",
            )
        return rows.with_part("label", label_ids(rows["label"], labels, split).tolist(), labels)

    def texts(self, rows: Rows) -> list[str]:
        parts = [rows[name] for name in ("text", "question") if name in rows]
        asked = ["\x00".join(texts) for texts in zip(*parts, strict=True)]
        return [
            "\x00".join([text, *choices]).casefold()
            for text, choices in zip(asked, rows["choices"], strict=True)
        ]

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Split:
        count = len(rows.labels)
        questions = rows["question"] if "question" in rows else [None] * len(rows)
        second = [
            choice if question is None else f"{question} {choice}"
            for question, choices in zip(questions, rows["choices"], strict=True)
            for choice in choices
        ]
        encoded = tokenizer(
            [text for text in rows["text"] for _ in range(count)],
            second,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
        )
        return as_split(
            encoded,
            tokenizer,
            np.asarray(rows["label"], dtype=np.int64),
            rows,
            starts=np.arange(0, len(second) + 1, count, dtype=np.int64),
            stacked=True,
        )

    def shown(self, rows: Rows) -> list[dict[str, Any]]:
        names = [name for name in ("text", "question") if name in rows]
        return [
            {**{name: rows[name][at] for name in names}, "choices": list(choices)}
            for at, choices in enumerate(rows["choices"])
        ]


def _is_label(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind)) or is_text(kind)


def _is_choices(kind: pa.DataType) -> bool:
    return is_list_of(kind, is_text) or _has_texts(kind)


def _has_texts(kind: pa.DataType) -> bool:
    """Whether a column has the form of commonsense_qa and ARC: {"label": [...], "text": [...]}."""
    place = kind.get_field_index("text") if pa.types.is_struct(kind) else -1
    return place >= 0 and is_list_of(kind.field(place).type, is_text)


def _guess_choices(table: pa.Table, label: str) -> str | tuple[str, ...]:
    """One column of lists, else the columns that are called alike and numbered."""
    lists = [field.name for field in table.schema if _is_choices(field.type)]
    known = [name for name in lists if name.lower() in CHOICE_NAMES[0]]
    if len(known or lists) == 1:
        return str((known or lists)[0])
    texts = [field.name for field in table.schema if is_text(field.type) and field.name != label]
    for prefix in CHOICE_PREFIXES:
        numbered = [name for name in texts if name.lower().startswith(prefix) and name[-1:].isalnum()]
        numbered = [name for name in numbered if len(name) <= len(prefix) + 2 and name.lower() != prefix]
        if len(numbered) > 1:
            return tuple(sorted(numbered))
    raise column_error("no column looks like the choices", "choices", table.column_names)


def _choices(table: pa.Table, columns: Columns) -> list[list[str] | None]:
    if isinstance(columns.choices, tuple):
        texts = [texts_of(table, name, "choices") for name in columns.choices]
        return [None if None in row else list(map(str, row)) for row in zip(*texts, strict=True)]
    column = str(columns.choices)
    kind = table.schema.field(column).type
    if not _is_choices(kind):
        raise ColumnError(
            f"column {column!r} holds values of type {kind}, not lists of choices",
            remedy="name a column of lists of strings, or one column for each choice, in "
            "dataset.columns.choices",
            pointer="/dataset/columns/choices",
        )
    values = table.column(column).to_pylist()
    lists = [value["text"] if isinstance(value, dict) else value for value in values]
    return [None if not row or any(not choice for choice in row) else list(row) for row in lists]
