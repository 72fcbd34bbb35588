"""`Client.webhooks` and `axforge webhooks` against a server."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner, Result

from axforge import Client, ProblemError, SpecError
from axforge.cli.main import app
from tests.sdk.conftest import Service

URL = "https://example.com/hook"


def run(service: Service, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--server", service.url, "webhooks", *arguments])


def test_client(service: Service) -> None:
    with Client(service.url) as client:
        created = client.webhooks.create(URL, events=["job.failed"], description="mine")
        assert created.secret.startswith("whsec_")
        assert created.id in [each.id for each in client.webhooks.list()]
        sent = client.webhooks.test(created.id)
        assert [each.id for each in client.webhooks.deliveries(created.id, limit=1)] == [sent.id]
        assert list(client.webhooks.deliveries(created.id, status="exhausted")) == []
        assert client.webhooks.replay(created.id, sent.id).status == "pending"
        rotated = client.webhooks.rotate(created.id)
        assert rotated.secret != created.secret
        assert client.webhooks.change(created.id, enabled=False, events=["job.created"]).enabled is False
        assert client.webhooks.get(created.id).events == ["job.created"]
        client.webhooks.remove(created.id)
        with pytest.raises(ProblemError) as caught:
            client.webhooks.get(created.id)
        assert caught.value.status == 404
        with pytest.raises(SpecError):
            client.webhooks.get("../jobs")


def test_command(service: Service) -> None:
    added = run(service, "add", URL, "--event", "job.failed")
    assert added.exit_code == 0, added.output
    webhook_id = _id(added, "whk")
    assert f"{webhook_id} enabled" in added.stdout
    assert "secret: whsec_" in added.stdout
    assert webhook_id in run(service, "list").stdout
    sent = _id(run(service, "test", webhook_id), "msg")
    assert sent in run(service, "deliveries", webhook_id).stdout
    assert f'"id":"{sent}"' in run(service, "replay", webhook_id, sent, "--json").stdout.replace(": ", ":")
    assert "The one before is good until" in run(service, "rotate", webhook_id).stdout
    assert "enabled" in run(service, "enable", webhook_id).stdout
    assert run(service, "remove", webhook_id).exit_code == 0
    assert webhook_id not in run(service, "list").stdout


def test_command_says_what_is_wrong(service: Service) -> None:
    refused = run(service, "add", "https://10.0.0.1/")
    assert refused.exit_code == 2
    assert "/url" in refused.stderr
    assert "not on the public internet" in refused.stderr


def _id(result: Result, prefix: str) -> str:
    """The id that the command printed."""
    found = re.search(rf"\b{prefix}_\w+", result.stdout)
    assert found is not None, result.output
    return found.group()
