"""Where and when a test of faults runs: `make test` has a few on SQLite, `make faults` has all."""

from __future__ import annotations

import pytest

POSTGRES = pytest.param("postgresql", marks=pytest.mark.slow)
on_sqlite = pytest.mark.parametrize("service", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("service", [POSTGRES], indirect=True)
