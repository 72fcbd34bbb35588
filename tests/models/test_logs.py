"""Log lines of a process: each one JSON object, whoever speaks, and none with a secret in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SECRETS = {"HF_TOKEN": "token-in-the-environment", "POSTGRES_PASSWORD": "p4ssword-of-postgres"}


def lines_of(code: str, *, level: str = "info", **environment: str) -> list[dict[str, Any]]:
    """What a process says that runs `code` after its logs were configured."""
    program = f"from models import logs\nlogs.configure('tester', {level!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | SECRETS | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    for secret in SECRETS.values():
        assert secret not in done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_uncaught_exception_is_one_line_without_the_values_of_variables() -> None:
    (line,) = lines_of("def f(private):\n    raise ValueError('no')\nf('a value of a variable')")
    assert (line["event"], line["level"], line["service"]) == ("uncaught_exception", "critical", "tester")
    assert line["exception"].endswith("ValueError: no")
    assert "a value of a variable'" not in line["exception"].replace("f('a value of a variable')", "")


def test_an_exception_in_a_thread_is_one_line() -> None:
    (line,) = lines_of("import threading\nthreading.Thread(target=lambda: 1 / 0).start()")
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_warnings_and_libraries_speak_the_same() -> None:
    code = (
        "import logging, warnings\n"
        "warnings.warn('two\\nlines')\n"
        "logging.getLogger('uvicorn.error').info('started %s', 'it')\n"
        "logging.getLogger('sqlalchemy.pool').error('gone')\n"
        "alone = logging.getLogger('multiprocessing')\nalone.propagate = False\nalone.error('exited')\n"
    )
    warned, started, gone, exited = lines_of(code)
    assert (exited["event"], exited["logger"]) == ("exited", "multiprocessing")
    assert "two\nlines" in warned["event"]
    assert (started["event"], started["logger"]) == ("started it", "uvicorn.error")
    assert (gone["level"], gone["logger"]) == ("error", "sqlalchemy.pool")


@pytest.mark.parametrize(("level", "told"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_that_of_the_setting(level: str, told: int) -> None:
    code = (
        "import structlog\nlog = structlog.get_logger('a')\n"
        "log.debug('1'); log.info('2'); log.warning('3'); log.error('4')"
    )
    assert len(lines_of(code, level=level)) == told


def test_parameters_of_a_statement_are_not_told() -> None:
    code = (
        "from models.database import Database\nfrom sqlalchemy import text\n"
        "with Database('sqlite://').session() as s:\n"
        "    s.execute(text('SELECT :a FROM nowhere'), {'a': 'what a user wrote'})"
    )
    (line,) = lines_of(code)
    assert "no such table" in line["exception"]
    assert "what a user wrote" not in line["exception"].replace("{'a': 'what a user wrote'}", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://axforge:hunter22@db:5432/x", "postgresql://axforge:***@db:5432/x"),
        ("redis://:hunter22@cache/0", "redis://:***@cache/0"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("signed by whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "signed by whsec_***"),
        ("https://s3/x?X-Amz-Signature=0123abcd&y=1", "https://s3/x?X-Amz-Signature=***&y=1"),
        ("authorization: basic dXNlcjpwYXNz", "authorization: basic ***"),
        ("sent hf_abcdefghijkl to the hub", "sent hf_*** to the hub"),
        ("https://x/y?token=0123abcd", "https://x/y?token=***"),
        ("https://x/y?a=b&SIG=0123abcd", "https://x/y?a=b&SIG=***"),
        (f"axf_{'0' * 28}_{'a' * 43}", f"axf_{'0' * 28}_***"),
        ("the token is token-in-the-environment.", "the token is ***."),
        ("https://example.org:8443/a@b", "https://example.org:8443/a@b"),
    ],
)
def test_credentials_are_made_unreadable(text: str, shown: str) -> None:
    (line,) = lines_of(f"import structlog\nstructlog.get_logger('a').info({text!r}, also={text!r})")
    assert (line["event"], line["also"]) == (shown, shown)


def test_nothing_of_opentelemetry_is_loaded_unless_it_is_asked_for() -> None:
    code = (
        "import sys\nfrom models import telemetry\n"
        "with telemetry.exporting('a'), telemetry.span('b') as span:\n"
        "    assert span is None and telemetry.carrier() == {}\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    assert lines_of(code) == []


def test_without_the_extra_the_service_says_so_and_goes_on() -> None:
    code = (
        "import sys\nsys.modules['opentelemetry'] = None\nfrom models import telemetry\n"
        "with telemetry.exporting('a'), telemetry.span('b') as span:\n"
        "    assert span is None and telemetry.environment() == {}"
    )
    (line,) = lines_of(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert line["event"] == "traces_not_exported"
    assert "otel" in line["remedy"]
