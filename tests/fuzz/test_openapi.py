"""The service answers as its description says, whatever is sent to it.

Left out is the check that all which fits the schemas is accepted: no schema tells which uploads exist, which
cursors were given out, or which idempotency keys were used.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.caller import Caller
from app.jobs.examples import JOB_EXAMPLES
from app.keys.schemas import NewApiKey
from app.keys.service import create
from app.main import create_app
from app.settings import ApiSettings
from models import lifecycle
from models.api_key import Scope
from models.database import Database
from models.job import DEFAULT_TENANT
from models.lifecycle import Delivery
from models.settings import Settings
from models.store import open_store
from tests.fuzz.conftest import TRIED, bounded
from tests.models.databases import create_tables

schema = schemathesis.openapi.from_dict(create_app(Settings(), ApiSettings()).openapi())
# A body that is too large may be refused for that before anything else is looked at.
REJECTION = schema.config.checks.negative_data_rejection
REJECTION.expected_statuses = [*REJECTION.expected_statuses, "413"]
CONFORMANCE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# `ignored_auth` sends requests of its own over the network; tests/app/test_scopes.py asks the same.
EXCLUDED = [positive_data_acceptance, ignored_auth]


@dataclass(frozen=True)
class Served:
    """An application with one thing of each kind."""

    app: FastAPI
    names: dict[str, str]
    headers: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("openapi")
    settings = Settings(data_dir=folder, secret_key=SecretStr("k" * 40))
    database = Database(settings.database)
    create_tables(database)
    api = ApiSettings(poll_seconds=0.02, max_wait_seconds=0.05)
    with database.transaction() as session:
        wanted = NewApiKey(name="fuzz", scopes=list(Scope), expires_at=None)
        key = create(session, Caller(DEFAULT_TENANT, None, frozenset(Scope)), wanted)
    headers = {"Authorization": f"Bearer {key.secret}"}
    with TestClient(create_app(settings, api), headers=headers) as client:
        spec = JOB_EXAMPLES["smaller_and_faster"]["value"]
        job_id = client.post("/v1/jobs", json=spec).json()["id"]
        csv = client.post("/v1/uploads?kind=dataset&filename=a.csv", content=b"text,label\n")
    blob = open_store(settings.store).put_stream([b"{}"])
    with database.transaction() as session:
        lifecycle.claim_one(session, job_id, "worker-1", 60)
        file = Delivery("certificate.json", blob.size, blob.sha256, "application/json")
        lifecycle.succeed(session, job_id, 1, result={}, artifacts=[file], progress={})
    database.close()
    names = {"job_id": job_id, "upload_id": csv.json()["id"], "name": file.name}
    return Served(create_app(settings, api), names, headers)


@schema.parametrize()
@bounded(10)
def test_every_operation(case: schemathesis.Case, served: Served) -> None:
    TRIED["requests"] += 1
    case.call_and_validate(app=served.app, headers=served.headers, excluded_checks=EXCLUDED)
    if case.path_parameters:  # ids that are made up lead to a 404, so the same of things that exist
        TRIED["requests"] += 1
        case.path_parameters.update(
            {name: value for name, value in served.names.items() if name in case.path_parameters}
        )
        case.call_and_validate(app=served.app, headers=served.headers, checks=CONFORMANCE)
