"""Ways to spoil what is right: JSON documents by their structure, files by their bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

ODD_TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "\0", "a\nb", "../..", "/etc/passwd", "file:///etc", "9" * 5000, "é" * 300, "%00"]
    ),
    st.sampled_from(
        ["store://sha256/0", "s3://b/k", "a/b", "upl_" + "0" * 28, "hub", "NaN", "1e999", "\U0001f600"]
    ),
)
ODD_NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63, -(2**63) - 1, 10**400, 1e308, 0.0, 5e-324]),
)
ODD_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), ODD_NUMBERS, ODD_TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=6,
)


@st.composite
def spoiled_documents(draw: st.DrawFn, bases: list[dict[str, Any]]) -> Any:
    """A valid document with one to four changes: something gone, replaced, moved, renamed or wrapped."""
    document: Any = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(document))
        if not places:
            break
        holder, name = draw(st.sampled_from(places))
        if name not in _names(holder):
            continue
        match draw(st.sampled_from(["remove", "replace", "move", "rename", "wrap"])):
            case "remove":
                del holder[name]
            case "replace":
                holder[name] = draw(ODD_VALUES)
            case "move":
                source, taken = draw(st.sampled_from(places))
                if taken in _names(source):
                    holder[name] = copy.deepcopy(source[taken])
            case "rename" if isinstance(holder, dict):
                holder[draw(ODD_TEXT)] = holder.pop(name)
            case _:
                holder[name] = draw(st.sampled_from([[holder[name]], {"value": holder[name]}]))
    return document


@st.composite
def spoiled_bytes(draw: st.DrawFn, base: bytes) -> bytes:
    """The same bytes after one to six changes: some overwritten, inserted, removed, doubled or cut off."""
    data = bytearray(base)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["overwrite", "flip", "insert", "remove", "double", "cut"])):
            case "overwrite":
                new = draw(st.binary(min_size=1, max_size=16))
                data[at : at + len(new)] = new
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=64))
            case "remove":
                del data[at : at + draw(st.integers(1, 64))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 512))]
            case "cut" if at > 0:
                del data[at:]
            case _:
                data += b"\0"
    return bytes(data)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for name in _names(value):
        yield value, name
        yield from _places(value[name])


def _names(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []
