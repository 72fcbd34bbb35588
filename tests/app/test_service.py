"""The service as a whole: what it says it can do, its health, its description, its weight."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient

from app import openapi
from app.capabilities.catalogue import APPROXIMATIONS, STAGES, STRATEGIES
from app.main import create_app
from app.settings import ApiSettings
from app.version import VERSION
from models.database import Database
from models.settings import Settings
from models.spec import ApproximationName, JobSpec, StrategyName
from models.spec.capabilities import ARCHITECTURES, DECODERS, ENCODERS
from models.store import ObjectStore, StoreError
from models.tables import Base

ROOT = Path(__file__).parent.parent.parent


def test_capabilities_tell_the_whole_language(client: TestClient) -> None:
    told = client.get("/v1/capabilities").json()
    assert [each["name"] for each in told["approximations"]] == list(get_args(ApproximationName))
    assert [each["name"] for each in told["strategies"]] == list(get_args(StrategyName))
    assert told["architectures"] == list(ARCHITECTURES)
    assert told["task_architectures"]["causal-lm"] == list(DECODERS)
    assert told["task_architectures"]["regression"] == list(ENCODERS)
    assert told["job_spec_schema"] == json.loads(json.dumps(JobSpec.model_json_schema()))
    assert "path" not in told["sources"]
    heads = next(each for each in told["approximations"] if each["name"] == "prune_heads")
    assert set(heads["json_schema"]["required"]) == {"layer", "heads"}
    assert heads["description"]
    assert told["limits"]["max_candidates"] == 100_000


def test_catalogue_covers_the_language() -> None:
    assert list(APPROXIMATIONS) == list(get_args(ApproximationName))
    assert list(STRATEGIES) == list(get_args(StrategyName))
    for name, known in APPROXIMATIONS.items():
        assert known.step.model_fields["approximation"].default == name


def test_stages_are_those_of_the_engine() -> None:
    from worker.engine import reporting

    assert reporting.STAGES == STAGES


def test_ready_with_a_degraded_broker(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "version": VERSION}
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    states = {part["name"]: part["status"] for part in answer.json()["parts"]}
    assert states == {"database": "ok", "store": "ok", "broker": "degraded"}


def test_ready_with_a_broker_that_answers(settings: Settings, database: Database, redis_url: str) -> None:
    linked = Settings.model_validate({**settings.model_dump(), "broker_url": redis_url})
    with TestClient(create_app(linked, ApiSettings())) as client:
        assert client.get("/readyz").json()["status"] == "ok"


def test_not_ready_without_tables(settings: Settings, database: Database, client: TestClient) -> None:
    Base.metadata.drop_all(database.engine)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "not_ready"
    assert "database" in answer.json()["detail"]
    assert client.get("/healthz").status_code == 200


def test_failing_store_is_503_and_retryable(
    client: TestClient, start_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run()
    run.succeed(model=b"weights")
    [file] = client.get(f"/v1/jobs/{run.job_id}/artifacts").json()["data"]

    def fail(*_: object) -> None:
        raise StoreError("the object store failed: GenericError")

    monkeypatch.setattr(ObjectStore, "open_range", fail)
    answer = client.get(file["url"])
    assert answer.status_code == 503
    assert answer.json()["code"] == "service_unavailable"
    assert answer.json()["retryable"] is True


def test_lost_database_is_503_and_retryable(
    settings: Settings, database: Database, client: TestClient, spec: dict[str, Any]
) -> None:
    Base.metadata.drop_all(database.engine)
    for answer in (client.get("/v1/jobs"), client.post("/v1/jobs", json=spec)):
        assert answer.status_code == 503
        assert answer.json()["code"] == "service_unavailable"
        assert answer.json()["retryable"] is True
        assert "Retry-After" in answer.headers
        assert str(settings.data_dir) not in answer.text


def test_no_connection_free_is_503_and_retryable(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = client.app.state.context.database.engine  # type: ignore[attr-defined]
    monkeypatch.setattr(engine.pool, "_timeout", 0.05)
    with ExitStack() as taken:
        for _ in range(engine.pool.size() + engine.pool._max_overflow):
            taken.enter_context(engine.connect())
        answer = client.get("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert "Retry-After" in answer.headers
    assert client.get("/v1/jobs").status_code == 200


def test_job_is_stored_though_the_broker_is_gone(
    settings: Settings, database: Database, spec: dict[str, Any]
) -> None:
    gone = Settings.model_validate({**settings.model_dump(), "broker_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(gone, ApiSettings())) as client:
        assert client.post("/v1/jobs", json=spec).status_code == 202
        assert len(client.get("/v1/jobs").json()["data"]) == 1
        assert client.get("/readyz").json()["status"] == "degraded"


def test_snapshot_is_what_is_served(client: TestClient) -> None:
    assert openapi.SNAPSHOT.read_text(encoding="utf-8") == openapi.snapshot()
    assert client.get("/openapi.json").json() == json.loads(openapi.snapshot())


def test_check_of_the_snapshot_fails_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi, "SNAPSHOT", tmp_path / "openapi.json")
    assert openapi.main(["--write"]) == 0
    assert openapi.main(["--check"]) == 0
    openapi.SNAPSHOT.write_text("{}")
    assert openapi.main(["--check"]) == 1


def test_every_operation_declares_problems_and_a_name() -> None:
    document = json.loads(openapi.snapshot())
    operations = [each for path in document["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names)) == 34
    for each in operations:
        for status in ("4XX", "5XX"):
            content = each["responses"][status]["content"]
            assert content == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_api_loads_no_machine_learning() -> None:
    code = "import app.command, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert {"app", "fastapi", "models"} <= loaded
    assert not loaded & {"torch", "transformers", "onnx", "onnxruntime", "numpy", "pyarrow", "sklearn"}


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [found for each in node.values() for found in _references(each)]
    if isinstance(node, list):
        return [found for each in node for found in _references(each)]
    return []
