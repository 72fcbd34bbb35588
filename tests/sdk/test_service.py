"""Client and command against the real application, over a real connection."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from axforge import Client, ProblemError
from axforge.cli.main import app
from models.lifecycle import JobError
from tests.sdk.conftest import Service
from tests.sdk.samples import CERTIFICATE, MEASUREMENTS, SPEC

WEIGHTS = bytes(range(256)) * 20_000  # more than one chunk on the wire
FILES = {"certificate.json": json.dumps(CERTIFICATE).encode(), "onnx/model.onnx": WEIGHTS}
TRIED = {
    "number": 0,
    "stage": "search",
    "recipe": {"steps": [{"approximation": "prune_heads", "layer": 0, "heads": [1, 2]}]},
    "measurements": MEASUREMENTS,
    "accepted": True,
    "reason": "It costs little.",
}


@pytest.fixture
def client(service: Service) -> Client:
    return Client(service.url)


def test_a_job_from_its_spec_to_its_files(service: Service, client: Client, tmp_path: Path) -> None:
    created = client.create_job(SPEC)
    assert (created.status, created.done) == ("queued", False)
    run = service.claim(created.id)
    seen: list[str] = []
    events: list[str] = []
    tried: list[object] = []
    moved = threading.Event()
    tried_out = threading.Event()

    def work() -> None:
        service.move(run, "search", 1, 4)
        assert moved.wait(20)
        service.tell(run, "text is q")
        service.try_out(run, TRIED)
        assert tried_out.wait(20)
        service.succeed(run, {"constraints_met": False, "certificate": CERTIFICATE}, FILES)

    worker = threading.Thread(target=work)
    worker.start()
    done = client.wait(
        created.id,
        on_progress=lambda job: (
            seen.append(job.status),
            moved.set() if job.progress and job.progress.stage else None,
        ),
        on_event=lambda event: events.append(event.message),
        on_candidate=lambda candidate: (tried.append(candidate.recipe.model_dump()), tried_out.set()),
        timeout=30,
    )
    worker.join(20)
    assert (done.status, done.constraints_met) == ("succeeded", False)
    assert seen[0] == "running"
    assert "text is q" in events
    assert tried == [TRIED["recipe"]]
    assert client.certificate(created.id) == CERTIFICATE

    part = tmp_path / "onnx" / "model.onnx.part"
    part.parent.mkdir()
    part.write_bytes(WEIGHTS[:1_000_000])
    received: list[int] = []
    paths = client.download(created.id, tmp_path, on_bytes=lambda artifact, present: received.append(present))
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in paths} == FILES
    assert min(count for count in received if count > 10_000) > 1_000_000  # gone on, not begun again


def test_events_are_streamed_while_they_happen(service: Service, client: Client) -> None:
    run = service.claim(client.create_job(SPEC).id)
    stream = client.stream_events(run.id)
    first = [next(stream).type for _ in range(2)]
    service.tell(run, "now")
    assert next(stream).message == "now"
    service.fail(run, JobError("worker_lost", "It was lost.", "Try again."))
    assert [event.type for event in stream] == ["job.failed"]
    assert first[0] == "job.created"
    replayed = list(client.stream_events(run.id))
    assert [event.message for event in replayed][2:] == ["now", "It was lost."]
    assert list(client.stream_events(run.id, after=replayed[-1].id)) == []


def test_the_same_key_is_the_same_job(client: Client) -> None:
    first = client.create_job(SPEC, idempotency_key="once")
    assert client.create_job(SPEC, idempotency_key="once").id == first.id
    with pytest.raises(ProblemError) as caught:
        client.create_job({**SPEC, "seed": 1}, idempotency_key="once")
    assert caught.value.code == "idempotency_key_reused"


def test_a_wrong_spec_is_told_field_by_field(client: Client) -> None:
    with pytest.raises(ProblemError) as caught:
        client.create_job({**SPEC, "focus": "sped"}, dry_run=True)
    (wrong,) = caught.value.errors
    assert wrong.where == "/focus"
    assert "speed" in str(wrong.remedy)


def test_local_files_are_uploaded_for_a_spec(client: Client, service: Service, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "train.csv").write_text("text,label\nhello,1\n")
    (tmp_path / "job.yaml").write_text("base_model: {path: base}\ndataset: {path: train.csv}\n")
    found = CliRunner().invoke(
        app, ["--server", service.url, "submit", str(tmp_path / "job.yaml"), "--upload", "--json"]
    )
    assert found.exit_code == 0, found.output
    # The log of the server, which is a thread of this test, goes there too.
    (answer,) = [line for line in found.stdout.splitlines() if line.startswith("{")]
    created = json.loads(answer)
    spec = client.job(created["id"]).spec
    assert str(spec.base_model.upload).startswith("upl_")
    assert str(spec.dataset.upload).startswith("upl_")
    assert spec.base_model.path is None


def test_the_command_waits_to_the_end(service: Service, client: Client, tmp_path: Path) -> None:
    run = service.claim(client.create_job(SPEC).id)
    service.succeed(run, {"constraints_met": False, "certificate": CERTIFICATE}, FILES)
    runner = CliRunner()
    waited = runner.invoke(app, ["status", run.id, "--wait", "--server", service.url])
    assert waited.exit_code == 3, waited.output
    assert "speed.min_speedup" in waited.stdout
    listed = runner.invoke(app, ["list", "--server", service.url, "--status", "succeeded"])
    assert run.id in listed.stdout
    fetched = runner.invoke(app, ["download", run.id, "-o", str(tmp_path), "--server", service.url])
    assert fetched.exit_code == 0, fetched.output
    assert (tmp_path / "onnx" / "model.onnx").read_bytes() == WEIGHTS


def test_cancel_and_list(client: Client) -> None:
    job = client.create_job({**SPEC, "name": "to-cancel"})
    assert client.cancel(job.id).status == "cancelled"
    assert [found.id for found in client.jobs(name="to-cancel", status="cancelled")] == [job.id]


def test_delete(service: Service, client: Client) -> None:
    job = client.create_job({**SPEC, "name": "to-delete"})
    refused = CliRunner().invoke(app, ["delete", job.id, "--server", service.url])
    assert refused.exit_code != 0
    assert client.job(job.id).status == "queued"
    client.cancel(job.id)
    done = CliRunner().invoke(app, ["delete", job.id, "--server", service.url])
    assert done.exit_code == 0, done.output
    with pytest.raises(ProblemError) as caught:
        client.job(job.id)
    assert caught.value.status == 404


def test_capabilities(service: Service, client: Client) -> None:
    assert "text-classification" in client.capabilities().tasks
    shown = CliRunner().invoke(app, ["capabilities", "--server", service.url])
    assert shown.exit_code == 0, shown.output
    assert "prune_heads" in shown.stdout
