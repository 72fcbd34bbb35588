from collections.abc import Iterator
from pathlib import Path

import pytest

from models.database import Database
from models.spec import JobSpec
from models.tables import Base
from tests.models.databases import BACKENDS, fresh_database


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    Base.metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
def spec() -> JobSpec:
    return JobSpec.model_validate(
        {"name": "tiny", "base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}, "metadata": {"team": "x"}}
    )
