"""Which column plays which part of a task: as given, or guessed by name and type; and texts read from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from models.spec import Columns
from worker.engine.errors import ColumnError

Tiers = tuple[tuple[str, ...], ...]
# Tried in order: within a tier one column may match, more are ambiguous.
LABEL_NAMES: Tiers = (
    ("label", "labels"),
    ("intent", "class", "category", "target", "sentiment", "topic", "coarse_label", "fine_label"),
)
PAIR_NAMES: tuple[tuple[str, str], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "document"),
    ("text", "text_pair"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
TEXT_NAMES: Tiers = (
    ("text", "sentence"),
    ("question", "utterance", "review", "content", "query", "document", "title", "tweet", "comment"),
)


def map_text_columns(table: pa.Table, given: Columns, label: str | None = None) -> Columns:
    """The mapping of a text, a second text and a label; `text_pair` stays None for single texts.

    `label` is the label's column where the task has found it by itself. Names are compared without letter
    case. Raises ColumnError naming the columns found.
    """
    check_given(table, given)
    label = given.label or label or _guess_label(table, given)
    text, pair = map_texts(table, given, taken=(label,))
    check_parts(table, [name for name in (text, pair, label) if name is not None])
    return Columns(text=text, text_pair=pair, label=label)


def map_texts(table: pa.Table, given: Columns, taken: Sequence[str]) -> tuple[str, str | None]:
    """The columns of text and second text, none of them among `taken`. Raises ColumnError."""
    if given.text is not None:
        return given.text, given.text_pair
    pair = given.text_pair
    text, guessed_pair = _guess_texts(
        table, taken=(*taken, *([pair] if pair else [])), pair_given=pair is not None
    )
    return text, pair or guessed_pair


def named_columns(columns: Columns) -> list[str]:
    """All columns that play a part."""
    values = columns.model_dump(exclude_none=True).values()
    return [name for value in values for name in ([value] if isinstance(value, str) else value)]


def check_given(table: pa.Table, given: Columns) -> None:
    """Raise ColumnError for a given column that the table does not have, or has twice."""
    found = table.column_names
    for part, value in given.model_dump(exclude_none=True).items():
        for name in [value] if isinstance(value, str) else value:
            if found.count(name) != 1:
                raise column_error(
                    f"there is no column {name!r}" if name not in found else f"column {name!r} occurs twice",
                    part,
                    found,
                )


def check_parts(table: pa.Table, chosen: Sequence[str]) -> None:
    """Raise ColumnError where a chosen column occurs twice or plays two parts."""
    found = table.column_names
    for name in chosen:
        if found.count(name) != 1:
            raise column_error(f"column {name!r} occurs twice", "text", found)
    if len(set(chosen)) != len(chosen):
        raise column_error("one column plays two parts", "text", found)


def guess_column(
    table: pa.Table,
    part: str,
    tiers: Tiers,
    fits: Callable[[pa.DataType], bool],
    what: str,
    *,
    taken: Sequence[str] = (),
    by_name: bool = False,
) -> str:
    """The column for `part`: of a fitting type and a known name, or the only one of that type.

    With `by_name` the name must be known. `what` says in a message what such a column holds. Raises
    ColumnError.
    """
    free = [field.name for field in table.schema if field.name not in taken and fits(field.type)]
    name = _by_tiers(free, tiers, part, table.column_names)
    if name is None and len(free) == 1 and not by_name:
        name = free[0]
    if name is None:
        why = f"no column holds {what}" if not free else f"no column looks like {what} more than the others"
        raise column_error(why, part, table.column_names)
    return name


def texts_of(table: pa.Table, column: str, part: str) -> list[str | None]:
    """The column as strings; None where it is null or blank. Raises ColumnError."""
    try:
        values = table.column(column).cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        kind = table.schema.field(column).type
        raise ColumnError(
            f"column {column!r} holds values of type {kind}, not text",
            remedy=f"name a column of strings in dataset.columns.{part}",
            pointer=f"/dataset/columns/{part}",
        ) from error
    return [value if value is not None and value.strip() else None for value in values]


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type holds strings (also dictionary-encoded)."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list_of(kind: pa.DataType, fits: Callable[[pa.DataType], bool]) -> bool:
    """Whether a column of this Arrow type holds lists of values that fit."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and fits(kind.value_type))


def column_error(why: str, part: str, found: Sequence[str]) -> ColumnError:
    """Why a part has no column, and how to name it."""
    shown = ", ".join(found[:30]) or "none"
    return ColumnError(
        f"{why}; the columns are: {shown}",
        remedy=f"name the column in dataset.columns.{part}",
        pointer=f"/dataset/columns/{part}",
    )


def _guess_label(table: pa.Table, given: Columns) -> str:
    free = [name for name in table.column_names if name not in (given.text, given.text_pair)]
    name = _by_tiers(free, LABEL_NAMES, "label", table.column_names)
    if name is None:
        raise column_error("no column looks like the label", "label", table.column_names)
    return name


def _guess_texts(table: pa.Table, *, taken: Sequence[str], pair_given: bool) -> tuple[str, str | None]:
    texts = [field.name for field in table.schema if field.name not in taken and is_text(field.type)]
    lowered = {name.lower(): name for name in texts}
    if not pair_given:
        pairs = [(lowered[a], lowered[b]) for a, b in PAIR_NAMES if a in lowered and b in lowered]
        if len(pairs) > 1:
            raise column_error(
                "more than one pair of columns looks like the texts", "text", table.column_names
            )
        if pairs:
            return pairs[0]
    name = _by_tiers(texts, TEXT_NAMES, "text", table.column_names)
    if name is None and len(texts) == 1:
        name = texts[0]
    if name is None:
        why = "no column holds text" if not texts else "no column looks like the text more than the others"
        raise column_error(why, "text", table.column_names)
    return name, None


def _by_tiers(names: Sequence[str], tiers: Tiers, part: str, found: list[str]) -> str | None:
    for tier in tiers:
        matching = [name for name in names if name.lower() in tier]
        if len(matching) > 1:
            raise column_error(f"{' and '.join(matching)} would both do as the {part}", part, found)
        if matching:
            return matching[0]
    return None
