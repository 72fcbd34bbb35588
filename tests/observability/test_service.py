"""One job through real processes: what their logs, metrics and traces say of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.observability.conftest import PARENT_SPAN_ID, REQUEST_ID, SECRETS, TRACE_ID, Seen

ROOT = Path(__file__).parent.parent.parent
PROCESSES = ("api", "worker", "dispatcher", "reaper")


@pytest.mark.parametrize("process", PROCESSES)
def test_every_line_is_one_json_object(seen: Seen, process: str) -> None:
    lines = seen.lines(process)
    assert lines
    for line in lines:
        assert {"event", "level", "timestamp", "service", "pid"} <= line.keys()
    assert {line["service"] for line in lines} <= {process, "runner"}
    assert seen.job["status"] == "succeeded"


def test_request_and_job_are_named_wherever_something_is_said_of_them(seen: Seen) -> None:
    (created,) = (
        line
        for line in seen.lines("api")
        if (line["event"], line.get("request_id")) == ("request", REQUEST_ID)
    )
    assert (created["method"], created["status"]) == ("POST", 202)
    assert (created["job_id"], created["trace_id"]) == (seen.job["id"], TRACE_ID)
    of_run = {line["event"]: line for line in seen.lines("worker") if "job_id" in line}
    assert {"run_started", "run_ended", "hub_failed", "run_said"} <= of_run.keys()
    for line in of_run.values():
        assert (line["job_id"], line["attempt"]) == (seen.job["id"], 1), line
        assert (line["request_id"], line["trace_id"]) == (REQUEST_ID, TRACE_ID), line
    assert {line["service"] for line in of_run.values()} == {"worker", "runner"}


def test_what_libraries_say_becomes_log_lines(seen: Seen) -> None:
    lines = seen.lines("worker")
    said = [line["text"] for line in lines if line["event"] == "run_said"]
    assert {"plain words", "100% of a bar", "[W:onnxruntime] a compiled library"} <= set(said)
    by_logger = {line.get("logger"): line for line in lines}
    assert by_logger["transformers"]["event"] == "weights were made up"
    assert "an old call" in by_logger["py.warnings"]["event"]


@pytest.mark.parametrize("process", PROCESSES)
def test_no_secret_and_no_variable_is_told(seen: Seen, process: str) -> None:
    for secret in SECRETS.values():
        assert secret not in seen.logs[process]
    failed = [line for line in seen.lines("worker") if line["event"] == "hub_failed"]
    assert failed[0]["exception"].endswith("ConnectionError: https://user:***@hub.example/x failed")
    assert failed[0]["header"] == "Bearer ***"


def test_metrics_count_what_the_job_did(seen: Seen) -> None:
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(seen.metrics)
        for sample in family.samples
    }
    assert samples["axforge_jobs_finished_total", "succeeded"] == 1
    assert samples["axforge_candidates_total", "accepted"] == 2
    assert samples["axforge_stage_duration_seconds_count", "search"] == 1
    assert samples["axforge_stage_duration_seconds_sum", "search"] > 0
    assert samples["axforge_jobs", "queued"] == samples["axforge_jobs", "running"] == 0
    assert samples["axforge_http_requests_total", "/v1/jobs", "202", "POST"] == 1
    assert samples["axforge_database_up",] == 1


def test_one_trace_from_the_request_to_the_stages(seen: Seen) -> None:
    by_name = {span.name: span for span in seen.collector.spans if span.trace_id.hex() == TRACE_ID}
    chain = ["POST /v1/jobs", "job.supervise", "job.run", "stage search"]
    parents = [PARENT_SPAN_ID] + [by_name[name].span_id.hex() for name in chain]
    assert [by_name[name].parent_span_id.hex() for name in chain] == parents[:-1]
    services = [seen.collector.services[by_name[name].span_id.hex()] for name in chain]
    assert services == ["axforge-api", "axforge-worker", "axforge-runner", "axforge-runner"]
    search = by_name["stage search"]
    assert [event.name for event in search.events] == ["candidate", "candidate"]
    assert search.end_time_unix_nano > search.start_time_unix_nano
    assert not any(span.name.endswith(("/readyz", "/metrics")) for span in seen.collector.spans)


def test_processes_are_as_light_as_operations_says(seen: Seen) -> None:
    documented = (ROOT / "docs" / "operations.md").read_text()
    for name, used in seen.memory.items():
        row = re.search(rf"^\| {name} \| (\d+) MiB \|", documented, re.MULTILINE)
        assert row is not None, name
        assert used < int(row[1]) * 2**20 * 1.5, (name, used // 2**20)
