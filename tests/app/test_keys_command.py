"""`axforge keys`: what the operator does with keys, on the database itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.keys.command import keys
from app.main import create_app
from app.settings import ApiSettings
from models.settings import Settings


def test_operator_creates_lists_and_revokes(tmp_path: Path) -> None:
    folder = ("--data-dir", str(tmp_path))
    made = _run("create", "--tenant", "team-a", "--scopes", "jobs,admin", "--name", "ci", *folder)
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    with TestClient(create_app(Settings(data_dir=tmp_path), ApiSettings())) as client:
        headers = {"Authorization": f"Bearer {secret}"}
        (shown,) = client.get("/v1/keys", headers=headers).json()["data"]
        assert (shown["name"], shown["scopes"]) == ("ci", ["jobs", "admin"])
        listed = _run("list", "--json", *folder)
        assert json.loads(listed.stdout)["id"] == shown["id"]
        assert secret not in listed.output
        assert _run("list", "--tenant", "team-b", *folder).stdout == ""
        assert _run("revoke", shown["id"], *folder).exit_code == 0
        assert client.get("/v1/keys", headers=headers).status_code == 401
        assert "revoked" in _run("list", *folder).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--scopes", "job", "--name", "x"), "--scopes"),
        (("create", "--scopes", "jobs,jobs", "--name", "x"), "named twice: jobs"),
        (("create", "--scopes", "all", "--name", "x", "--expires-in-days", "0"), "--expires-in-days"),
        (("create", "--scopes", "all", "--name", "x", "--tenant", "a b"), "--tenant"),
        (("revoke", "key_1"), "no API key 'key_1'"),
    ],
)
def test_operator_is_told_what_is_wrong(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    found = _run(*arguments, "--data-dir", str(tmp_path))
    assert found.exit_code == 2
    assert said in found.output


def test_operator_is_told_of_a_database_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://axforge:planted-password@127.0.0.1:1/axforge"
    monkeypatch.setenv("AXFORGE_DATABASE_URL", url)
    found = _run("list")
    assert found.exit_code == 2
    assert "AXFORGE_DATABASE_URL" in found.output
    assert "planted-password" not in found.output


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(keys, list(arguments))
