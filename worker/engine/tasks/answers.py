"""Answers of a question as data sets write them: texts and their first characters in the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import pyarrow as pa

from worker.engine.errors import LabelError

POINTER = "/dataset/columns/answers"


class Answer(TypedDict):
    """`start` is the place of the first character of `text` in the context."""

    text: str
    start: int


def answers_of(table: pa.Table, column: str, contexts: Sequence[str | None]) -> list[list[Answer] | None]:
    """The answers of each row; an empty list where the question has none, None where nothing is said.

    As in SQuAD `{"text": [...], "answer_start": [...]}`, or a list of `{"text", "answer_start"}`. A text that
    is not at its place is looked for in the context. Raises LabelError where it is nowhere in it, and for
    other forms.
    """
    values: list[Any] = table.column(column).to_pylist()
    return [
        None if value is None or context is None else _answers(value, context, column, number)
        for number, (value, context) in enumerate(zip(values, contexts, strict=True), 1)
    ]


def _answers(value: Any, context: str, column: str, number: int) -> list[Answer]:
    try:
        if isinstance(value, dict):
            pairs = list(zip(value["text"], value["answer_start"], strict=True))
        else:
            pairs = [(one["text"], one["answer_start"]) for one in value]
        return [_placed(str(text), int(start), context, column, number) for text, start in pairs if text]
    except (KeyError, TypeError, ValueError) as error:
        raise LabelError(
            f"row {number} of column {column!r} is not of the form of answers",
            remedy='give {"text": [...], "answer_start": [...]} as SQuAD does; or empty lists',
            pointer=POINTER,
        ) from error


def _placed(text: str, start: int, context: str, column: str, number: int) -> Answer:
    if context[start : start + len(text)] != text:
        start = context.find(text)
    if start < 0:
        raise LabelError(
            f"the answer {text[:80]!r} of row {number} in column {column!r} is no part of its context",
            remedy="give answers that stand in the context, letter by letter",
            pointer=POINTER,
        )
    return Answer(text=text, start=start)
