"""A job spec as the caller has it, turned into the JSON document that is sent.

The server validates; what is done here is reading YAML and dealing with files of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import yaml

from axforge.errors import SpecError

Spec = Mapping[str, Any] | str | Path
"""A document, YAML (or JSON) text, or the path of a file with it."""

LocalFiles = Literal["auto", "upload", "keep"]
"""What is done with `path` sources.

`auto`: a server on this machine gets the absolute path; for any other server a `path` is refused,
since it most likely means a file of this machine. `upload`: files are sent and the path is
replaced by the upload's id. `keep`: sent as written, a path of the server's machine.
"""

SOURCES: tuple[tuple[str, Literal["model", "dataset"]], ...] = (
    ("base_model", "model"),
    ("dataset", "dataset"),
)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Upload = Callable[[Path, Literal["model", "dataset"]], str]


def read(spec: Spec) -> tuple[dict[str, Any], Path]:
    """The document, and the folder that its relative paths start from.

    That is the folder of the spec's file; the working folder for a spec that comes without one.
    Raises `SpecError`.
    """
    if isinstance(spec, Mapping):
        return _as_json(dict(spec)), Path.cwd()
    if isinstance(spec, Path):
        try:
            text = spec.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise SpecError(f"cannot read the spec {spec}: {reason}") from error
        return _parse(text, str(spec)), spec.resolve().parent
    return _parse(spec, "the spec"), Path.cwd()


def settle_paths(
    document: Mapping[str, Any], folder: Path, mode: LocalFiles, *, server: str, upload: Upload
) -> dict[str, Any]:
    """The document with its `path` sources dealt with as `mode` says. Raises `SpecError`."""
    settled = dict(document)
    if mode == "keep":
        return settled
    for field, kind in SOURCES:
        source = document.get(field)
        if not isinstance(source, Mapping) or not isinstance(source.get("path"), str):
            continue  # the server says what is wrong with anything else
        path = (folder / Path(source["path"]).expanduser()).resolve()
        if mode == "upload":
            settled[field] = _uploaded(source, path, field, kind, upload)
        elif _is_loopback(server):
            settled[field] = {**source, "path": str(path)}
        else:
            raise SpecError(
                f"{field}.path names a file of this machine, which {server} does not see; "
                "upload it (--upload), or say that the path is one of the server's machine (--no-upload)",
                pointer=f"/{field}/path",
            )
    return settled


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{name} is not YAML: {_first_problem(error)}") from error
    if not isinstance(document, dict):
        raise SpecError(f"{name} should hold a mapping with base_model, dataset and so on")
    return _as_json(document)


def _as_json(document: dict[Any, Any]) -> dict[str, Any]:
    """What YAML and Python know and JSON does not (dates, paths, tuples), in JSON's words."""
    try:
        return cast("dict[str, Any]", json.loads(json.dumps(document, default=str, allow_nan=False)))
    except ValueError as error:
        raise SpecError("the spec holds a number that is infinite or not a number") from error


def _first_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} at line {mark.line + 1}, column {mark.column + 1}"
    return str(error)


def _uploaded(
    source: Mapping[str, Any],
    path: Path,
    field: str,
    kind: Literal["model", "dataset"],
    upload: Upload,
) -> dict[str, Any]:
    try:
        identity = upload(path, kind)
    except SpecError as error:
        raise SpecError(f"{field}.path: {error}", pointer=f"/{field}/path") from error
    rest = {key: value for key, value in source.items() if key != "path"}
    return {**rest, "upload": identity}


def _is_loopback(server: str) -> bool:
    return urlsplit(server).hostname in LOOPBACK
