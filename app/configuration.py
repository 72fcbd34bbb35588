"""The table of settings in docs/operations.md. `python -m app.configuration --write | --check` keeps it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python
from pydantic_settings import BaseSettings

from app.settings import ApiSettings
from models.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def table() -> str:
    """Every setting with its default and its meaning, as the classes have them."""
    head = "| variable | default | meaning |\n|---|---|---|\n"
    return head + "".join(_rows(Settings)) + "".join(_rows(ApiSettings))


def main(arguments: list[str] | None = None) -> int:
    """Write the table into the page, or compare; 1 if they differ."""
    parser = argparse.ArgumentParser(prog="python -m app.configuration", description=main.__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + table() + END + after
    if parser.parse_args(arguments).write:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if page == wanted:
        return 0
    print("docs/operations.md lacks a setting: run `python -m app.configuration --write`", file=sys.stderr)
    return 1


def _rows(settings: type[BaseSettings]) -> list[str]:
    prefix = settings.model_config["env_prefix"]
    return [
        f"| `{prefix}{name.upper()}` | {_default(field.get_default())} | {field.description or ''} |\n"
        for name, field in settings.model_fields.items()
    ]


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    plain = to_jsonable_python(value)
    return f"`{plain if isinstance(plain, str) else json.dumps(plain)}`"


if __name__ == "__main__":
    sys.exit(main())
