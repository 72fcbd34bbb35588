"""How many inputs the fuzz tests try, and the count that is told at the end.

AXFORGE_FUZZ_EXAMPLES sets how many for each test; with it they differ from run to run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

TRIED: Counter[str] = Counter()
WANTED = os.environ.get("AXFORGE_FUZZ_EXAMPLES")


def bounded(usual: int) -> Callable[[Any], Any]:
    """Settings of a fuzz test that tries `usual` inputs in `make test`."""
    return settings(
        max_examples=int(WANTED) if WANTED else usual,
        derandomize=WANTED is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for kind, count in sorted(TRIED.items()):
        terminalreporter.write_line(f"fuzz: {count} {kind}")
