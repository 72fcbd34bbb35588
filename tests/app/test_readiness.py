"""/readyz says which part is down, soon, and without telling where it is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

import migrations
from app.health import service
from app.main import create_app
from app.settings import ApiSettings
from models.database import Database
from models.settings import Settings

CLOSED = "127.0.0.1:1"


@contextmanager
def black_hole() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def ask(settings: Settings, **changes: Any) -> tuple[int, dict[str, Any]]:
    """The status and the body of /readyz, after /healthz has been seen to answer."""
    changed = Settings.model_validate({**settings.model_dump(), **changes})
    with TestClient(create_app(changed, ApiSettings(probe_seconds=0.5))) as client:
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        return answer.status_code, answer.json()


def states(body: dict[str, Any]) -> dict[str, str]:
    return {part["name"]: part["status"] for part in body["parts"]}


def test_all_is_well(settings: Settings, database: Database, redis_url: str) -> None:
    status, body = ask(settings, broker_url=redis_url)
    assert (status, body["status"]) == (200, "ok")
    assert states(body) == {"database": "ok", "store": "ok", "broker": "ok"}


@pytest.mark.parametrize("hangs", [False, True], ids=["refused", "hangs"])
def test_without_the_database(settings: Settings, database: Database, redis_url: str, hangs: bool) -> None:
    with black_hole() as hole:
        where = hole if hangs else CLOSED
        url = f"postgresql://someone:password@{where}/name"
        status, body = ask(settings, database_url=url, broker_url=redis_url)
    assert (status, body["code"]) == (503, "not_ready")
    assert states(body) == {"database": "down", "store": "ok", "broker": "ok"}
    assert "database" in body["detail"]
    for secret in ("someone", "password", "127.0.0.1"):
        assert secret not in str(body)


@pytest.mark.parametrize("hangs", [False, True], ids=["refused", "hangs"])
def test_without_the_broker(settings: Settings, database: Database, hangs: bool) -> None:
    with black_hole() as hole:
        status, body = ask(settings, broker_url=f"redis://:password@{hole if hangs else CLOSED}/0")
    assert (status, body["status"]) == (200, "degraded")
    assert states(body) == {"database": "ok", "store": "ok", "broker": "degraded"}
    assert "127.0.0.1" not in str(body)


@pytest.mark.parametrize("hangs", [False, True], ids=["refused", "hangs"])
def test_without_the_store(
    settings: Settings, database: Database, redis_url: str, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with black_hole() as hole:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{hole if hangs else CLOSED}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-long-password")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        status, body = ask(settings, store_url="s3://the-bucket", broker_url=redis_url)
    assert (status, body["code"]) == (503, "not_ready")
    assert states(body) == {"database": "ok", "store": "down", "broker": "ok"}
    for secret in ("someone", "the-bucket", "127.0.0.1"):
        assert secret not in str(body)


def test_without_the_folder_of_the_store(settings: Settings, database: Database) -> None:
    with TestClient(create_app(settings, ApiSettings())) as client:
        assert client.get("/readyz").status_code == 200
        (settings.data_dir / "objects").rename(settings.data_dir / "away")
        assert states(client.get("/readyz").json())["store"] == "down"
        (settings.data_dir / "away").rename(settings.data_dir / "objects")
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(("revision", "status"), [("0001", 503), ("9999-of-tomorrow", 200)])
def test_tables_of_another_version(
    settings: Settings, database: Database, revision: str, status: int
) -> None:
    """Older tables lack something; newer ones are there while a service is upgraded."""
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
    answered, body = ask(settings)
    assert answered == status
    if status == 503:
        assert "python -m migrations" in body["detail"]


def test_head_is_what_an_upgrade_leads_to(settings: Settings) -> None:
    migrations.upgrade(settings.database)
    assert ask(settings)[0] == 200
    assert not migrations.is_behind(migrations.head())
    assert migrations.is_behind(None)


def test_the_parts_are_asked_at_the_same_time(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(3, timeout=20)

    def meet(_context: Any) -> str:
        together.wait()
        return "met"

    monkeypatch.setattr(service, "PROBES", tuple(replace(probe, ask=meet) for probe in service.PROBES))
    with TestClient(create_app(settings, ApiSettings(probe_seconds=30))) as client:
        assert client.get("/readyz").json()["status"] == "ok"


def test_a_part_that_hangs_holds_two_threads_at_most(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    asked: list[int] = []

    def hang(_context: Any) -> str:
        asked.append(1)
        release.wait(20)
        return "at last"

    probes = tuple(replace(each, ask=hang) if each.name == "store" else each for each in service.PROBES)
    monkeypatch.setattr(service, "PROBES", probes)
    with TestClient(create_app(settings, ApiSettings(probe_seconds=0.1))) as client:
        for _ in range(6):
            assert states(client.get("/readyz").json())["store"] == "down"
        release.set()
    assert len(asked) == 2
