"""Whatever is sent as a job spec is answered: as a plan, or with a typed problem."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from app.jobs.examples import JOB_EXAMPLES
from app.main import create_app
from app.settings import ApiSettings
from models.database import Database
from models.settings import Settings
from models.spec import JobSpec
from models.tables import Base
from tests.fuzz.conftest import TRIED, bounded
from tests.fuzz.mutations import spoiled_bytes, spoiled_documents

EXAMPLES: list[dict[str, Any]] = [example["value"] for example in JOB_EXAMPLES.values()]
BASES = [*EXAMPLES, JobSpec.model_validate(EXAMPLES[0]).model_dump(mode="json")]
EXPECTED = {200, 400, 413, 415, 422}
JSON, YAML = "application/json", "application/yaml"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("fuzz"))
    database = Database(settings.database)
    Base.metadata.create_all(database.engine)
    database.close()
    with TestClient(create_app(settings, ApiSettings()), raise_server_exceptions=False) as client:
        yield client


def dry_run(client: TestClient, body: bytes, media_type: str) -> None:
    TRIED["job specs"] += 1
    answer = client.post("/v1/jobs?dry_run=true", content=body, headers={"Content-Type": media_type})
    assert answer.status_code in EXPECTED, answer.text
    if answer.status_code == 200:
        JobSpec.model_validate(answer.json()["spec"])
    else:
        problem = answer.json()
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert problem["code"] != "internal_error"
        assert answer.status_code != 422 or problem["errors"]


@bounded(150)
@given(document=spoiled_documents(BASES), ascii_only=st.booleans())
def test_spoiled_json(client: TestClient, document: Any, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only)
    dry_run(client, text.encode("utf-8", "surrogatepass"), JSON)


@bounded(60)
@given(document=spoiled_documents(BASES))
def test_spoiled_yaml(client: TestClient, document: Any) -> None:
    dry_run(client, yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"), YAML)


@bounded(100)
@given(
    body=st.one_of(*(spoiled_bytes(json.dumps(base).encode()) for base in BASES), st.binary(max_size=200)),
    media_type=st.sampled_from([JSON, YAML]),
)
def test_spoiled_bytes(client: TestClient, body: bytes, media_type: str) -> None:
    dry_run(client, body, media_type)
