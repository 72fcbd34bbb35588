"""Secrets planted in keys, settings and requests come out nowhere: logs, answers, database, trail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.keys.schemas import CreatedApiKey
from models.database import Database
from models.redaction import redact, redact_document
from models.store import Store
from tests.app.conftest import bearer

ROOT = Path(__file__).parent.parent.parent
DATABASE_PASSWORD = "planted-database-password"
BROKER_PASSWORD = "planted-broker-password"
S3_SECRET = "planted-s3-secret-key"
URI_PASSWORD = "planted-uri-password"
BROKEN = {
    "AXFORGE_API_AUTH": "open",
    "AXFORGE_DATABASE_URL": f"postgresql://axforge:{DATABASE_PASSWORD}@127.0.0.1:1/axforge",
    "AXFORGE_BROKER_URL": f"redis://:{BROKER_PASSWORD}@127.0.0.1:1/0",
    "AXFORGE_STORE_URL": "s3://bucket",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ALLOW_HTTP": "true",
    "AWS_ACCESS_KEY_ID": "access",
    "AWS_SECRET_ACCESS_KEY": S3_SECRET,
    "AWS_REGION": "us-east-1",
}
ASK = """
import json, sys
from fastapi.testclient import TestClient
from app.main import create_app
from models.logs import configure
configure("api")
with TestClient(create_app(), raise_server_exceptions=False) as client:
    for method, path, body in json.load(sys.stdin):
        answer = client.request(method, path, json=body)
        print(answer.status_code, answer.headers, answer.text)
"""


def test_nothing_of_a_scenario_holds_a_secret(
    application: Callable[..., Any],
    make_key: Callable[..., CreatedApiKey],
    start_run: Callable[..., Any],
    spec: dict[str, Any],
    database: Database,
    store: Store,
    capfd: pytest.CaptureFixture[str],
) -> None:
    key = make_key()
    run = start_run()
    run.event(f"fetched s3://user:{URI_PASSWORD}@bucket/x with {key.secret}")
    run.succeed(**{"model.onnx": b"weights"})
    said = []
    with TestClient(application(), headers=bearer(key), raise_server_exceptions=False) as client:
        created = client.post("/v1/keys", json={"name": "n", "scopes": ["jobs"]}).json()["secret"]
        uri = f"s3://user:{URI_PASSWORD}@bucket/model"
        refused = client.post("/v1/jobs", json={**spec, "base_model": {"uri": uri}})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "/base_model/uri"
        said.append(refused.text)
        for path in (
            *("/v1/jobs", "/v1/keys", "/v1/audit", "/v1/uploads", "/v1/capabilities", "/readyz", "/nowhere"),
            *(f"/v1/jobs/{run.job_id}", f"/v1/jobs/{run.job_id}/events"),
            *(f"/v1/jobs?name={key.secret}", f"/v1/jobs/{run.job_id}/artifacts/model.onnx"),
        ):
            answer = client.get(path)
            assert answer.status_code in (200, 404)
            said += [answer.text, str(answer.headers)]
        for wrong in (created[:-1] + "~", f"{key.secret} {created}"):
            answer = client.get("/v1/jobs", headers={"Authorization": f"Bearer {wrong}"})
            assert answer.status_code == 401
            said += [answer.text, str(answer.headers)]
    out, err = capfd.readouterr()
    with database.engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        dump = "\n".join(raw.iterdump())
    assert run.job_id in dump
    everything = "\n".join([*said, out, err, dump])
    for secret in (key.secret, created, key.secret[37:], created[37:], URI_PASSWORD):
        assert secret not in everything


def test_parts_that_are_down_are_told_without_their_passwords() -> None:
    asked = [
        ("GET", "/readyz", None),
        ("GET", "/v1/jobs", None),
        ("POST", "/v1/jobs", {"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}}),
        ("POST", "/v1/uploads?kind=dataset&filename=d.csv", None),
    ]
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=_environment(),
        timeout=120,
        check=True,
    )
    everything = done.stdout + done.stderr
    assert done.stdout.count("503") >= 3
    assert "database_unavailable" in everything
    for secret in (DATABASE_PASSWORD, BROKER_PASSWORD, S3_SECRET):
        assert secret not in everything


def test_log_lines_are_redacted_as_the_last_step() -> None:
    code = (
        "import logging, structlog; from models.logs import configure; configure('api'); "
        f"structlog.get_logger('x').info('said', url='redis://:{BROKER_PASSWORD}@h/0'); "
        f"logging.getLogger('lib').warning('axf_%s_%s', '0' * 28, 'b' * 43)\n"
        f"try: raise RuntimeError('key {S3_SECRET}')\n"
        "except RuntimeError: logging.getLogger('lib').exception('broken')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=_environment(),
        timeout=60,
        check=True,
    )
    assert "redis://:***@h/0" in done.stderr
    assert "axf_" + "0" * 28 + "_***" in done.stderr
    assert "RuntimeError: key ***" in done.stderr
    for secret in (BROKER_PASSWORD, S3_SECRET, "b" * 43):
        assert secret not in done.stderr


@pytest.mark.parametrize(
    "text", ["http://host:8000/a@b", "s3://bucket/key", "abfs://container@account/x", "12:30 mail@host"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def _environment() -> dict[str, str]:
    return os.environ | BROKEN


def test_documents_are_redacted_wherever_a_text_stands() -> None:
    document = {"a": ["Bearer abcdefgh", 1, None], "b": {"s3://user:password@host/x": True}}
    assert redact_document(document) == {"a": ["Bearer ***", 1, None], "b": {"s3://user:***@host/x": True}}
