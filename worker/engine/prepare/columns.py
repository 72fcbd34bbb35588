"""Which column holds the text, the second text and the label: as given, or guessed by name and type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from models.spec import Columns
from worker.engine.errors import ColumnError

Part = Literal["text", "text_pair", "label"]
# Tried in order: within a tier one column may match, more are ambiguous.
LABEL_NAMES: tuple[tuple[str, ...], ...] = (
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
TEXT_NAMES: tuple[tuple[str, ...], ...] = (
    ("text", "sentence"),
    ("question", "utterance", "review", "content", "query", "document", "title", "tweet", "comment"),
)


def map_columns(table: pa.Table, given: Columns) -> Columns:
    """The mapping with every part that could be settled; `text_pair` stays None for single texts.

    Names are compared without letter case. Raises ColumnError naming the columns found.
    """
    found = table.column_names
    for part in ("text", "text_pair", "label"):
        name = getattr(given, part)
        if name is not None and found.count(name) != 1:
            raise _column_error(
                f"there is no column {name!r}" if name not in found else f"column {name!r} occurs twice",
                part,
                found,
            )
    label = given.label or _guess_label(table, given)
    text, pair = given.text, given.text_pair
    if text is None:
        text, guessed_pair = _guess_texts(
            table, taken=(label, *([pair] if pair else [])), pair_given=pair is not None
        )
        pair = pair or guessed_pair
    chosen = [name for name in (text, pair, label) if name is not None]
    for name in chosen:
        if found.count(name) != 1:
            raise _column_error(f"column {name!r} occurs twice", "text", found)
    if len(set(chosen)) != len(chosen):
        raise _column_error("one column plays two parts", "text", found)
    return Columns(text=text, text_pair=pair, label=label)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type holds strings (also dictionary-encoded)."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _guess_label(table: pa.Table, given: Columns) -> str:
    free = [name for name in table.column_names if name not in (given.text, given.text_pair)]
    name = _by_tiers(free, LABEL_NAMES, "label", table.column_names)
    if name is None:
        raise _column_error("no column looks like the label", "label", table.column_names)
    return name


def _guess_texts(table: pa.Table, *, taken: Sequence[str], pair_given: bool) -> tuple[str, str | None]:
    texts = [field.name for field in table.schema if field.name not in taken and is_text(field.type)]
    lowered = {name.lower(): name for name in texts}
    if not pair_given:
        pairs = [(lowered[a], lowered[b]) for a, b in PAIR_NAMES if a in lowered and b in lowered]
        if len(pairs) > 1:
            raise _column_error(
                "more than one pair of columns looks like the texts", "text", table.column_names
            )
        if pairs:
            return pairs[0]
    name = _by_tiers(texts, TEXT_NAMES, "text", table.column_names)
    if name is None and len(texts) == 1:
        name = texts[0]
    if name is None:
        why = "no column holds text" if not texts else "no column looks like the text more than the others"
        raise _column_error(why, "text", table.column_names)
    return name, None


def _by_tiers(
    names: Sequence[str], tiers: tuple[tuple[str, ...], ...], part: Part, found: list[str]
) -> str | None:
    for tier in tiers:
        matching = [name for name in names if name.lower() in tier]
        if len(matching) > 1:
            raise _column_error(f"{' and '.join(matching)} would both do as the {part}", part, found)
        if matching:
            return matching[0]
    return None


def _column_error(why: str, part: str, found: Sequence[str]) -> ColumnError:
    shown = ", ".join(found[:30]) or "none"
    return ColumnError(
        f"{why}; the columns are: {shown}",
        remedy=f"name the column in dataset.columns.{part}",
        pointer=f"/dataset/columns/{part}",
    )
