"""The command: what it prints, and what its exit status says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from axforge import Client
from axforge.cli import plugins
from axforge.cli.main import app
from axforge.cli.session import Session
from tests.sdk.samples import (
    CERTIFICATE,
    JOB_ID,
    SPEC,
    Script,
    Stream,
    artifact,
    candidate,
    event,
    job,
    page,
    problem,
)

CONTENT = json.dumps(CERTIFICATE).encode()
FILES = [artifact("certificate.json", CONTENT, hashlib.sha256(CONTENT).hexdigest())]

Serve = Callable[..., Script]


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(SPEC))
    return str(file)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Gives the commands a server that answers what it is told, and checks that all was asked for."""
    servers: list[Script] = []

    def start(*answers: httpx.Response | Exception) -> Script:
        server = Script(*answers)
        servers.append(server)

        def client(session: Session) -> Client:
            return server.client(retries=0)

        monkeypatch.setattr(Session, "client", client)
        return server

    yield start
    assert [server.answers for server in servers] == [[] for _ in servers]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(document: dict[str, Any], status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=document, headers={"ETag": '"1"'})


def ending(status: str, **changes: Any) -> list[httpx.Response]:
    """What a server answers to submit --wait for a job that ends so."""
    progress = {
        "stage": "search",
        "step": 3,
        "total": 9,
        "fraction": 0.4,
        "eta_seconds": 65.0,
        "message": "heads",
    }
    return [
        answer(job(), 202),
        answer(job("running", progress=progress)),
        page([event(1)]),
        page([candidate(0)]),
        answer(job(status, **changes)),
        page([]),
        page([]),
    ]


def listing() -> list[httpx.Response]:
    return [page(FILES), httpx.Response(200, content=CONTENT)]


@pytest.mark.parametrize(("met", "status"), [(True, 0), (False, 3)])
def test_submit_and_wait_ends_with_the_certificate(serve: Serve, spec: str, met: bool, status: int) -> None:
    serve(*ending("succeeded", constraints_met=met), *listing())
    found = run("submit", spec, "--wait")
    assert found.exit_code == status, found.output
    assert f"{JOB_ID} queued" in found.stdout
    assert "search 3/9, about 1:05 left, 1 candidate (1 accepted), heads" in found.stdout
    assert "candidate 0 accepted" in found.stdout
    assert "dataset.columns: event 1" in found.stdout
    assert "4.00x faster" in found.stdout
    assert f"axforge download {JOB_ID}" in found.stdout
    assert found.stderr == ""


def test_a_failed_job_says_why_and_exits_1(serve: Serve, spec: str) -> None:
    error = {
        "code": "dataset_labels",
        "detail": "Only one class.",
        "remedy": "Give two.",
        "pointer": "/dataset",
        "retryable": False,
    }
    serve(*ending("failed", error=error))
    found = run("submit", spec, "--wait")
    assert found.exit_code == 1
    for expected in ("failed", "/dataset: Only one class. (dataset_labels)", "Give two."):
        assert expected in found.stderr


def test_a_cancelled_job_exits_1(serve: Serve, spec: str) -> None:
    serve(*ending("cancelled"))
    assert run("submit", spec, "--wait").exit_code == 1


def test_json_lines_end_with_certificate_and_job(serve: Serve, spec: str) -> None:
    serve(*ending("succeeded", constraints_met=False), *listing())
    found = run("submit", spec, "--wait", "--json")
    assert found.exit_code == 3
    documents = [json.loads(line) for line in found.stdout.splitlines()]
    assert [each["type"] for each in documents] == ["event", "candidate", "progress", "certificate", "job"]
    assert documents[3]["certificate"] == CERTIFICATE
    assert documents[4]["job"]["id"] == JOB_ID


def test_an_interrupt_lets_the_job_go_on(serve: Serve, spec: str) -> None:
    serve(answer(job(), 202), KeyboardInterrupt())
    found = run("submit", spec, "--wait")
    assert found.exit_code == 130
    assert f"axforge status {JOB_ID} --wait" in found.stderr
    assert f"axforge cancel {JOB_ID}" in found.stderr


def test_a_connection_that_stays_broken_tells_how_to_go_on(serve: Serve, spec: str) -> None:
    serve(answer(job(), 202), httpx.ConnectError("refused"))
    found = run("submit", spec, "--wait")
    assert found.exit_code == 1
    assert f"axforge status {JOB_ID} --wait" in found.stderr
    assert "No server answers" in found.stderr


def test_submit_alone_prints_the_id(serve: Serve, spec: str) -> None:
    server = serve(answer(job(), 202))
    found = run("submit", spec)
    assert found.exit_code == 0
    assert found.stdout.startswith(f"{JOB_ID} queued\n")
    assert json.loads(server.requests[0].content) == SPEC


def test_a_wrong_spec_names_each_field_and_exits_2(serve: Serve, spec: str) -> None:
    errors = [
        {"pointer": "/focus", "detail": "Should be 'speed' or 'size'.", "remedy": "Did you mean `speed`?"},
        {"pointer": "/target/device", "detail": "Should be 'cpu'."},
    ]
    detail = f"/focus: {errors[0]['detail']}"
    serve(problem(422, "invalid_request", errors=errors, title="The request is not valid", detail=detail))
    found = run("submit", spec)
    assert found.exit_code == 2
    assert found.stdout == ""
    for expected in (
        "The request is not valid",
        "/focus: Should be",
        "Did you mean `speed`?",
        "/target/device",
    ):
        assert expected in found.stderr
    assert found.stderr.count("Should be 'speed'") == 1


def test_errors_as_json(serve: Serve, spec: str) -> None:
    serve(problem(422, "invalid_request", errors=[{"pointer": "/focus", "detail": "No."}]))
    found = run("--json", "submit", spec)
    document = json.loads(found.stderr)
    assert (document["type"], document["code"]) == ("error", "invalid_request")
    assert document["errors"][0]["where"] == "/focus"


def test_a_spec_that_is_not_there_exits_2(serve: Serve, tmp_path: Path) -> None:
    found = run("submit", str(tmp_path / "none.yaml"))
    assert found.exit_code == 2
    assert "none.yaml" in found.stderr


def test_local_files_are_refused_for_another_machine(tmp_path: Path, serve: Serve) -> None:
    serve()
    (tmp_path / "job.yaml").write_text("base_model: {path: m}\ndataset: {path: d}\n")
    found = run("submit", str(tmp_path / "job.yaml"))
    assert found.exit_code == 2
    assert "--upload" in found.stderr


def test_a_dry_run_shows_the_plan(serve: Serve, spec: str) -> None:
    plan = {
        "object": "plan",
        "spec": SPEC,
        "spec_digest": "0" * 64,
        "stages": ["prepare", "certify"],
        "strategy": "axformer",
        "approximations": ["quantize"],
        "max_minutes": 60.0,
        "warnings": ["hard_attention is ignored"],
    }
    server = serve(answer(plan))
    found = run("submit", spec, "--dry-run")
    assert found.exit_code == 0
    assert server.requests[0].url.params["dry_run"] == "true"
    for expected in ("prepare > certify", "hard_attention is ignored", "nothing was created"):
        assert expected in found.stdout


def test_status_of_a_job(serve: Serve) -> None:
    serve(answer(job("succeeded", constraints_met=True, artifacts=FILES)))
    found = run("status", JOB_ID)
    for expected in (JOB_ID, "succeeded", "met", "certificate.json"):
        assert expected in found.stdout


def test_the_certificate_of_a_job(serve: Serve) -> None:
    serve(*listing(), page([]))
    assert "4.00x faster" in run("status", JOB_ID, "--certificate").stdout
    missing = run("status", JOB_ID, "--certificate")
    assert missing.exit_code == 1
    assert "no certificate" in missing.stderr


def test_the_report_of_a_job_is_fetched(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    kept = {"report.html": b"<!doctype html>", "report.json": b"{}"}
    files = [artifact(name, each, hashlib.sha256(each).hexdigest()) for name, each in kept.items()]
    sent = [httpx.Response(200, content=iter([each])) for each in kept.values()]
    serve(page([*FILES, *files]), *sent, page(FILES))
    found = run("report", JOB_ID, "--output", str(tmp_path), "--open")
    assert found.exit_code == 0, found.output
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert opened == [(tmp_path / "report.html").as_uri()]
    missing = run("report", JOB_ID, "--output", str(tmp_path))
    assert missing.exit_code == 1
    assert "has no file report.html, report.json" in missing.stderr


def test_an_unknown_job_exits_1(serve: Serve) -> None:
    serve(problem(404, "not_found", title="There is no such thing"))
    found = run("status", JOB_ID)
    assert found.exit_code == 1
    assert "There is no such thing" in found.stderr


def test_list_shows_whole_ids_in_a_pipe(serve: Serve) -> None:
    listed = {"object": "list", "data": [job(), job("failed")], "has_more": False, "next_cursor": None}
    server = serve(answer(listed), answer(listed))
    found = run("list", "--status", "queued", "--status", "failed")
    assert found.stdout.count(JOB_ID) == 2
    assert server.requests[0].url.params.get_list("status") == ["queued", "failed"]
    assert len([json.loads(line) for line in run("list", "--json").stdout.splitlines()]) == 2


def test_events_as_lines_and_as_json(serve: Serve) -> None:
    serve(page([event(1), event(2, level="warning")]), page([event(1)]))
    found = run("events", JOB_ID)
    assert [line.partition(" ")[2] for line in found.stdout.splitlines()] == [
        "dataset.columns: event 1",
        "dataset.columns: event 2",
    ]
    assert json.loads(run("events", JOB_ID, "--json").stdout)["id"] == 1


def test_cancel(serve: Serve) -> None:
    serve(answer(job("running", cancel_requested=True), 202))
    assert "stops at its next step" in run("cancel", JOB_ID).stdout


def test_export_waits_and_fetches_the_files(serve: Serve, tmp_path: Path) -> None:
    done = answer(job("succeeded", constraints_met=False, artifacts=FILES))
    fetched = [page(FILES), httpx.Response(200, stream=Stream(CONTENT))]
    server = serve(answer(job(), 202), done, *fetched, *listing())
    found = run("export", JOB_ID, "7", "--output", str(tmp_path))
    assert found.exit_code == 3  # the candidate's certificate says that constraints are missed
    assert server.requests[0].method == "POST"
    assert server.requests[0].url.path == f"/v1/jobs/{JOB_ID}/candidates/7/export"
    assert (tmp_path / "certificate.json").read_bytes() == CONTENT


def test_an_export_that_fails_says_why(serve: Serve) -> None:
    serve(problem(422, "candidate_not_trained", title="The candidate was never trained"))
    found = run("export", JOB_ID, "0")
    assert found.exit_code == 2
    assert "The candidate was never trained" in found.stderr


def test_options_before_and_behind_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | None, str | None, bool]] = []

    def client(session: Session) -> Client:
        asked.append((session.server, session.api_key, session.json))
        return Script(page([])).client()

    monkeypatch.setattr(Session, "client", client)
    run("--server", "http://a", "--api-key", "k", "events", JOB_ID)
    run("--server", "http://a", "events", JOB_ID, "--server", "http://b", "--json")
    assert asked == [("http://a", "k", False), ("http://b", None, True)]


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXFORGE_URL", "http://from.environment:1")
    with Session().client() as client:
        assert client.base_url == "http://from.environment:1"
    with Session(server="http://given:2").client() as client:
        assert client.base_url == "http://given:2"


def test_no_server_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def client(session: Session) -> Client:
        return Script(httpx.ConnectError("Connection refused")).client(retries=0)

    monkeypatch.setattr(Session, "client", client)
    found = run("list")
    assert found.exit_code == 1
    assert "No server answers at http://axforge.test" in found.stderr
    assert "Traceback" not in found.output


@pytest.mark.parametrize(
    ("command", "distribution"),
    [("serve", "axforge-server[embedded]"), ("optimize", "axforge-server[worker]")],
)
def test_a_command_of_the_server_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, command: str, distribution: str
) -> None:
    monkeypatch.setattr(plugins, "_installed", dict)
    found = run(command, "spec.yaml", "--output", "x")
    assert found.exit_code == 2
    assert f"pip install '{distribution}'" in found.stderr
    assert command in run("--help").stdout


def test_a_command_of_the_server_is_loaded_when_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "forging.py").write_text(
        "import typer\n"
        "def smelt(name: str, hot: bool = typer.Option(False)) -> None:\n"
        "    '''Melt it.'''\n"
        "    print(f'{name} {hot}')\n"
        "    raise typer.Exit(3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = {
        "smelt": EntryPoint("smelt", "forging:smelt", plugins.GROUP),
        "optimize": EntryPoint("optimize", "no_such_module:run", plugins.GROUP),
    }
    monkeypatch.setattr(plugins, "_installed", lambda: points)
    found = run("smelt", "iron", "--hot")
    assert (found.stdout, found.exit_code) == ("iron True\n", 3)
    assert "Melt it." in run("smelt", "--help").stdout
    assert "smelt" in run("--help").stdout
    broken = run("optimize")
    assert broken.exit_code == 2
    assert "no_such_module" in broken.stderr


def test_version() -> None:
    assert "axforge 0.1.0" in run("version").stdout
    assert json.loads(run("version", "--json").stdout)["axforge"] == "0.1.0"
