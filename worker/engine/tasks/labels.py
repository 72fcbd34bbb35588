"""The label set: read from the training rows, put in a stable order, checked against the holdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from worker.engine.errors import LabelError
from worker.engine.tasks.columns import is_list_of, is_text

POINTER = "/dataset/columns/label"
_SHOWN = 8
_LONGEST_INTEGER = 100  # digits; a text of thousands of them is no number, and Python reads it as none


def label_names(table: pa.Table, column: str) -> list[str | None]:
    """The label of each row by name; None where it is missing (null, blank, or -1 of a hub class label).

    Integers, whole floats and booleans are named by their digits or by `true` and `false`; class labels of
    the hub by the names in the file's metadata. Raises LabelError for fractions, lists and other types.
    """
    kind = table.schema.field(column).type
    values: list[Any] = table.column(column).to_pylist()
    if is_text(kind):
        return [value if value is not None and value.strip() else None for value in values]
    if pa.types.is_boolean(kind):
        return [None if value is None else str(value).lower() for value in values]
    if pa.types.is_floating(kind):
        values = [None if value is None or value != value else value for value in values]
        if any(value is not None and not value.is_integer() for value in values):
            raise LabelError(
                f"column {column!r} holds numbers with fractions: a score, not a class",
                remedy="name the column of the class in dataset.columns.label, or set task: regression",
                pointer=POINTER,
            )
    elif not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise LabelError(
            f"column {column!r} holds values of type {kind}, not one label a row",
            remedy="give a column of strings or integers; for several labels a row set task: "
            "multi-label-classification",
            pointer=POINTER,
        )
    names = hub_label_order(table, column)
    if names:
        return [
            names[int(value)] if value is not None and 0 <= value < len(names) else None for value in values
        ]
    return [None if value is None else str(int(value)) for value in values]


def label_lists(table: pa.Table, column: str) -> list[list[str] | None]:
    """The labels of each row by name; None where there is no list, or a part of it is missing.

    Integers are named as in `label_names`. Raises LabelError for lists of anything but strings and integers.
    """
    kind = table.schema.field(column).type
    of_texts, of_integers = is_list_of(kind, is_text), is_list_of(kind, pa.types.is_integer)
    if not (of_texts or of_integers or is_list_of(kind, pa.types.is_null)):
        raise LabelError(
            f"column {column!r} holds values of type {kind}, not lists of labels",
            remedy="give lists of strings or integers, or name another column in dataset.columns.label",
            pointer=POINTER,
        )
    names = hub_label_order(table, column)
    lists: list[list[Any] | None] = table.column(column).to_pylist()
    if of_texts:
        return [_whole(values) for values in lists]
    return [
        _whole(None if values is None else [_named(value, names) for value in values]) for values in lists
    ]


def in_order(present: set[str], hub_order: Sequence[str]) -> tuple[str, ...]:
    """Labels in the hub's order, else integers by value, else by name."""
    if hub_order:
        return tuple(name for name in hub_order if name in present)
    if all(_is_integer(name) for name in present):
        return tuple(sorted(present, key=int))
    return tuple(sorted(present))


def label_set(names: Sequence[str | None], hub_order: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels, in order.

    Raises LabelError when there are fewer than two, or so many that the column is no label.
    """
    present = {name for name in names if name is not None}
    if len(present) < 2:
        seen = f"only the label {next(iter(present))!r}" if present else "no label"
        raise LabelError(
            f"the training rows have {seen}",
            remedy="give training rows of at least two classes, or name another label column",
            pointer=POINTER,
        )
    if len(present) > max(2, len(names) // 2):
        raise LabelError(
            f"the {len(names)} training rows have {len(present)} different labels, too many to learn",
            remedy="name the column that holds the class in dataset.columns.label",
            pointer=POINTER,
        )
    return in_order(present, hub_order)


def hub_label_order(table: pa.Table, column: str) -> tuple[str, ...]:
    """Names of a hub class label, or of a list of them, in the order of its ids; empty for other columns.

    Data sets of the hub keep the names of integer class labels in the parquet metadata.
    """
    try:
        described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = described.get("info", {}).get("features", {}).get(column, {})
        feature = feature.get("feature", feature)
        names = feature.get("names", []) if feature.get("_type") == "ClassLabel" else []
    except (ValueError, AttributeError, RecursionError):
        return ()  # metadata is a hint that others wrote; without it labels keep their numbers
    usable = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if usable and len(set(names)) == len(names) else ()


def label_ids(names: Sequence[str], labels: Sequence[str], holdout: str) -> NDArray[np.int64]:
    """Indices into `labels`, (n,). Raises LabelError naming those of split `holdout` unseen in training."""
    check_known(set(names), labels, holdout)
    ids = {name: place for place, name in enumerate(labels)}
    return np.fromiter((ids[name] for name in names), dtype=np.int64, count=len(names))


def label_list_ids(lists: Sequence[Sequence[str]], labels: Sequence[str], holdout: str) -> list[list[int]]:
    """Indices into `labels` of the labels of each row. Raises LabelError as `label_ids` does."""
    check_known({name for names in lists for name in names}, labels, holdout)
    ids = {name: place for place, name in enumerate(labels)}
    return [[ids[name] for name in names] for names in lists]


def check_known(present: set[str], labels: Sequence[str], holdout: str) -> None:
    """Raise LabelError naming the labels of split `holdout` that are not among `labels`."""
    unseen = sorted(present - set(labels))
    if unseen:
        more = f" and {len(unseen) - _SHOWN} more" if len(unseen) > _SHOWN else ""
        shown = ", ".join(map(repr, unseen[:_SHOWN]))
        raise LabelError(
            f"labels of the {holdout} split that no training row has: {shown}{more}",
            remedy="add training rows of these labels, or take the rows out of the holdout",
            pointer=POINTER,
        )


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and len(name) < _LONGEST_INTEGER


def _named(value: int | None, names: Sequence[str]) -> str | None:
    if value is None or not names:
        return None if value is None else str(value)
    return names[value] if 0 <= value < len(names) else None


def _whole(values: Sequence[str | None] | None) -> list[str] | None:
    if values is None or any(value is None for value in values):
        return None
    return [str(value) for value in values]
