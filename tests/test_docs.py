"""The documentation says what the code does: fields, defaults and error codes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from models.spec import APPROXIMATIONS, DEFAULT_APPROXIMATIONS, JobSpec

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| `([\w.]+)` \| (.+?) \| .+ \|$", re.MULTILINE)


def test_job_spec_page_lists_every_field_with_its_default() -> None:
    documented = dict(ROW.findall((ROOT / "docs" / "job-spec.md").read_text()))
    actual = dict(_fields(JobSpec))
    assert documented.keys() == actual.keys()
    for name, default in actual.items():
        assert documented[name] == default, name


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        nested = _nested(field.annotation)
        if field.is_required():
            default = "*required*"
        elif name == "approximations":
            missing = [f"`{name}`" for name in APPROXIMATIONS if name not in DEFAULT_APPROXIMATIONS]
            default = f"all but {', '.join(missing)}"
        elif name == "metric":
            default = "the task's first"
        elif nested is not None:
            default = "`{}`"
        else:
            default = f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        yield prefix + name, default
        if nested is not None:
            yield from _fields(nested, f"{prefix}{name}.")


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _nested(part))), None)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid_jobs(example: Path) -> None:
    import yaml

    JobSpec.model_validate(yaml.safe_load(example.read_text()))


def test_errors_page_lists_every_code_that_can_be_answered() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    in_code = {code for package in ("app", "models", "worker") for code in _codes(ROOT / package)}
    assert len(in_code) > 20
    assert sorted(in_code) == sorted(set(rows))


def _codes(package: Path) -> Iterator[str]:
    """Values given to `code` in a class body or a call."""
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield from (code for statement in node.body for code in _assigned(statement))
            elif isinstance(node, ast.Call):
                values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                yield from _constants(values)


def _assigned(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.Assign(targets=[ast.Name(id="code")], value=value):
            return _constants([value])
        case ast.AnnAssign(target=ast.Name(id="code"), value=value):
            return _constants([value])
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
            named = zip(names, values, strict=True)
            return _constants([value for name, value in named if getattr(name, "id", None) == "code"])
    return []


def _constants(values: list[Any]) -> list[str]:
    return [
        value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]
