from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.runs import tiny_sources
from tests.engine.stages.crews import spec_of
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.baseline import baseline
from worker.engine.stages.prepare import prepare


@pytest.fixture(scope="package")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="package")
def finished(sources: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose baseline is done."""
    folder = tmp_path_factory.mktemp("run")
    run = Run(spec_of(sources, 1), folder, SilentReporter())
    run.workspace.finish("prepare", prepare(run))
    run.workspace.finish("baseline", baseline(run))
    return folder
