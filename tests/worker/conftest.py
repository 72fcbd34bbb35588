from collections.abc import Iterator
from pathlib import Path

import pytest

from models.database import Database
from models.settings import Settings
from models.tables import Base
from tests.models.databases import BACKENDS, fresh_database


@pytest.fixture(params=BACKENDS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    with fresh_database(request.param, tmp_path) as url:
        yield Settings.model_validate(
            {
                "data_dir": tmp_path / "data",
                "database_url": url,
                "store_url": (tmp_path / "objects").as_uri(),
                "heartbeat_seconds": 0.05,
                "lease_seconds": 20,
                "stop_grace_seconds": 20,
                "allow_paths": True,
            }
        )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    Base.metadata.create_all(database.engine)
    yield database
    database.close()
