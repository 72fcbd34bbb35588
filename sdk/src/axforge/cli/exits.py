"""What the command's exit status means, and how an error becomes one."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from rich.console import Console

from axforge.cli.progress import write_json
from axforge.errors import AxforgeError, ProblemError, SpecError

SPEC_IS_WRONG = frozenset({400, 413, 415, 422})


class ExitCode(IntEnum):
    """Stable, for scripts."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_MET = 3
    DETACHED = 130


def exit_code(error: AxforgeError) -> ExitCode:
    """2 where the caller has to change something, 1 where the server or the job failed."""
    if isinstance(error, SpecError) or (isinstance(error, ProblemError) and error.status in SPEC_IS_WRONG):
        return ExitCode.USAGE
    return ExitCode.FAILED


def show_error(error: AxforgeError, *, json: bool) -> None:
    """Tell it on standard error: the title, what is wrong, each field, and what would be right."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if json:
        write_json({"type": "error", **_document(error)}, console)
        return
    for style, line in _lines(error):
        console.print(line, style=style, markup=False)


def _lines(error: AxforgeError) -> list[tuple[str, str]]:
    if not isinstance(error, ProblemError):
        pointer = getattr(error, "pointer", None)
        return [("bold red", f"{pointer}: {error}" if pointer else str(error))]
    lines = [("bold red", error.title)]
    told = any(error.detail.endswith(part.detail) for part in error.errors)
    if error.detail and not told:
        lines.append(("", error.detail))
    for part in error.errors:
        lines.append(("", f"  {part.where or '/'}: {part.detail}"))
        if part.remedy:
            lines.append(("green", f"    {part.remedy}"))
    if error.remedy and error.remedy not in [part.remedy for part in error.errors]:
        lines.append(("green", error.remedy))
    if error.retry_after is not None:
        lines.append(("", f"Try again in {error.retry_after:g} seconds."))
    if error.request_id and error.status >= 500:
        lines.append(("dim", f"Request id: {error.request_id}"))
    return lines


def _document(error: AxforgeError) -> dict[str, Any]:
    if not isinstance(error, ProblemError):
        return {
            "code": type(error).__name__,
            "detail": str(error),
            "pointer": getattr(error, "pointer", None),
        }
    return {
        "code": error.code,
        "status": error.status,
        "title": error.title,
        "detail": error.detail,
        "remedy": error.remedy,
        "errors": [
            {"where": part.where, "detail": part.detail, "remedy": part.remedy} for part in error.errors
        ],
        "request_id": error.request_id,
        "retryable": error.retryable,
    }
