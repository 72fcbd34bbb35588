"""From Pydantic's errors to RFC 6901 pointers, with a sentence and a remedy for each field."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError

MAX_SHOWN = 60


class FieldProblem(BaseModel):
    """One field that is wrong."""

    pointer: str | None = Field(
        None, description="RFC 6901 pointer into the body.", examples=["/constraints/speed/min_speedup"]
    )
    parameter: str | None = Field(None, description="Query, path or header parameter.", examples=["limit"])
    detail: str
    remedy: str | None = None


def to_pointer(parts: Iterable[str | int]) -> str:
    """RFC 6901: `/` before every part, `~` and `/` escaped."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def body_problems(error: ValidationError, model: type[BaseModel], document: Any) -> list[FieldProblem]:
    """One problem for each wrong field of `document`; alternatives of a union are told together."""
    found: dict[str, list[FieldProblem]] = {}
    kinds: dict[str, set[str]] = {}
    for entry in error.errors(include_url=False):
        parts = _parts_in_document(entry["loc"], entry["type"], document)
        problem = _describe(entry, parts, model)
        found.setdefault(problem.pointer or "", []).append(problem)
        kinds.setdefault(problem.pointer or "", set()).add(entry["type"])
    return [_merge(same) for pointer, same in found.items() if not _explained_below(pointer, kinds)]


def parameter_problems(errors: Sequence[Any]) -> list[FieldProblem]:
    """Problems of query, path and header parameters, as FastAPI reports them."""
    return [
        FieldProblem(
            parameter=str(entry["loc"][1]),
            detail=_sentence(entry),
            remedy=_literal_remedy(entry) if entry["type"] in ("literal_error", "enum") else None,
        )
        for entry in errors
    ]


def names_remedy(name: str, allowed: Sequence[str]) -> str:
    """What to write instead of a name that is not known."""
    match = close_match(name, allowed)
    guess = f"Did you mean `{match}`?" if match else "Remove it."
    return f"{guess} Allowed: {_listed(allowed)}." if allowed else guess


def close_match(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that `name` was most likely meant to be."""
    matches = difflib.get_close_matches(name, list(allowed), n=1)
    return matches[0] if matches else None


def _parts_in_document(loc: Sequence[str | int], kind: str, document: Any) -> tuple[str | int, ...]:
    """`loc` without the names of union members and validators, which are no part of the document."""
    parts: list[str | int] = []
    here = document
    for position, part in enumerate(loc):
        is_absent_field = kind == "missing" and position == len(loc) - 1
        if is_absent_field or (isinstance(here, Mapping) and part in here):
            parts.append(part)
            here = here.get(part) if isinstance(here, Mapping) else None
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            parts.append(part)
            here = here[part]
    return tuple(parts)


def _describe(entry: Any, parts: tuple[str | int, ...], model: type[BaseModel]) -> FieldProblem:
    kind = entry["type"]
    name = str(parts[-1]) if parts else "the document"
    pointer = to_pointer(parts)
    if kind == "missing":
        return FieldProblem(pointer=pointer, detail=f"`{name}` is required.", remedy=f"Add `{name}`.")
    if kind == "extra_forbidden":
        return FieldProblem(
            pointer=pointer,
            detail=f"There is no field `{_shorten(name)}` here.",
            remedy=names_remedy(name, _fields_at(model, parts[:-1])),
        )
    if kind == "literal_error":
        return FieldProblem(pointer=pointer, detail=_sentence(entry), remedy=_literal_remedy(entry))
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        fields = _fields_at(model, parts)
        remedy = f"Give an object with {_listed(fields)}." if fields else "Give an object."
        return FieldProblem(
            pointer=pointer, detail=f"Expected an object, found {_shown(entry)}.", remedy=remedy
        )
    return FieldProblem(pointer=pointer, detail=_sentence(entry))


def _sentence(entry: Any) -> str:
    if entry["type"] in ("value_error", "assertion_error"):
        text = str(entry["ctx"]["error"])
        return text[:1].upper() + text[1:] + "."
    if entry["type"] == "missing":
        return f"`{entry['loc'][-1]}` is required."
    text = str(entry["msg"]).removeprefix("Input should ")
    if text != entry["msg"]:
        return f"Should {text}; found {_shown(entry)}."
    return f"{text}."


def _literal_remedy(entry: Any) -> str | None:
    expected = str(entry["ctx"]["expected"])
    match = close_match(
        str(entry["input"]), [word.strip("' ") for word in expected.split("'") if word.strip()]
    )
    return f"Did you mean `{match}`?" if match else f"Give {expected}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _shown(entry: Any) -> str:
    given = entry["input"]
    if isinstance(given, Mapping):
        return "an object"
    if isinstance(given, (list, tuple)):
        return "a list"
    return "nothing" if given is None else _shorten(repr(given))


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _fields_at(model: type[BaseModel], parts: Sequence[str | int]) -> list[str]:
    """Names of the fields allowed in the object at `parts` of a document of type `model`."""
    models = [model]
    for part in parts:
        if isinstance(part, str):
            annotations = [each.model_fields[part].annotation for each in models if part in each.model_fields]
            models = [found for annotation in annotations for found in _models_in(annotation)]
    return [name for each in models for name in each.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def _merge(same: Sequence[FieldProblem]) -> FieldProblem:
    """Members of a union each complain about the same field: told as alternatives."""
    details = list(dict.fromkeys(problem.detail for problem in same))
    remedies = list(dict.fromkeys(problem.remedy for problem in same if problem.remedy))
    return FieldProblem(
        pointer=same[0].pointer,
        detail=" Or: ".join(details),
        remedy=" Or: ".join(remedies) or None,
    )


def _explained_below(pointer: str, kinds: Mapping[str, set[str]]) -> bool:
    """What failed inside also failed as another member of a union, and left its list too short."""
    is_consequence = kinds[pointer] <= {"literal_error", "too_short"}
    return is_consequence and any(other.startswith(pointer + "/") for other in kinds)
