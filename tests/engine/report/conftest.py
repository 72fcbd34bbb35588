"""One finished run for all tests of reports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.report.documents import Finished, artifact, reported_spec
from tests.engine.runs import Recorder, tiny_sources
from worker.engine.pipeline import run
from worker.engine.report.schema import Report


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("report")
    sources = tiny_sources(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AXFORGE_CACHE_DIR", str(folder / "cache"))
        yield run(reported_spec(sources), folder / "run", Recorder()), folder / "run", sources


@pytest.fixture(scope="session")
def report(finished: Finished) -> Report:
    return Report.model_validate_json(artifact(finished[0], "report.json").read_text())


@pytest.fixture(scope="session")
def page(finished: Finished) -> str:
    return artifact(finished[0], "report.html").read_text()
