"""What is wrong with a request is said field by field, in one form everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app import bodies
from app.jobs import service

BASE = {"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}}


@pytest.mark.parametrize(
    ("change", "pointer", "detail", "remedy"),
    [
        ({"base_model": None}, "/base_model", "Expected an object, found nothing", "`hub`"),
        ({"focuss": "speed"}, "/focuss", "no field `focuss`", "Did you mean `focus`?"),
        ({"zzzz": 1}, "/zzzz", "no field", "Allowed: `name`, `base_model`"),
        ({"a/b~c": 1}, "/a~1b~0c", "no field", "Allowed"),
        (
            {"focus": "sped"},
            "/focus",
            "'speed', 'size', 'balanced' or 'accuracy'; found 'sped'",
            "Did you mean `speed`?",
        ),
        ({"task": "translation"}, "/task", "'text-classification'", "text-classification"),
        ({"name": "a\nb"}, "/name", "match pattern", ""),
        ({"seed": -1}, "/seed", "greater than or equal to 0; found -1", ""),
        ({"budget": {"max_minutes": 0}}, "/budget/max_minutes", "greater than 0", ""),
        ({"budget": {"minutes": 3}}, "/budget/minutes", "no field", "Did you mean `max_minutes`?"),
        ({"constraints": {"speed": {"min_speedup": "x"}}}, "/constraints/speed/min_speedup", "number", ""),
        (
            {"constraints": {"accuracy": {"min_gain": 0.01, "max_relative_drop": 0.01}}},
            "/constraints/accuracy",
            "contradicts an allowed drop",
            "",
        ),
        ({"constraints": {"accuracy": {"confidence": 1.5}}}, "/constraints/accuracy/confidence", "0.95", ""),
        ({"base_model": {}}, "/base_model", "exactly one of hub, upload, uri, path; found none", ""),
        ({"base_model": {"hub": "a/b", "path": "x"}}, "/base_model", "found hub and path", ""),
        ({"base_model": {"upload": "upl_1"}}, "/base_model/upload", "match pattern", ""),
        ({"approximations": ["quantise"]}, "/approximations/0", "'quantise'", "Did you mean `quantize`?"),
        ({"approximations": []}, "/approximations", "at least 1 item", ""),
        ({"exports": ["onnx", "onnx"]}, "/exports", "Named twice: onnx", ""),
        ({"exports": ["safetensors"]}, "", "add it to exports", ""),
        ({"recovery": {"epoch": 2}}, "/recovery/epoch", "no field `epoch`", "Did you mean `epochs`?"),
        ({"recovery": "on"}, "/recovery", "'off'", "`epochs`"),
        ({"target": {"sequence_length": "max"}}, "/target/sequence_length", "'data'", ""),
        ({"metadata": {"key": 1}}, "/metadata/key", "valid string", ""),
        ({"dataset": {"path": "/etc/passwd"}}, "/dataset/path", "reads no files of its own", "/v1/uploads"),
        (
            {"dataset": {"upload": "upl_" + "0" * 28}},
            "/dataset/upload",
            "no upload of this id",
            "POST /v1/uploads?kind=dataset",
        ),
    ],
)
def test_wrong_field_is_pointed_at(
    client: TestClient, change: dict[str, Any], pointer: str, detail: str, remedy: str
) -> None:
    answer = client.post("/v1/jobs", json={**BASE, **change})
    problem = answer.json()
    assert answer.status_code == problem["status"] == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["code"] == "invalid_request"
    assert problem["retryable"] is False
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    (error,) = problem["errors"]
    assert error["pointer"] == pointer
    assert detail in error["detail"]
    assert remedy in error.get("remedy", "")
    assert client.get("/v1/jobs").json()["data"] == []


def test_every_wrong_field_is_told_at_once(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json={"focus": "x", "seed": "y", "budget": {"max_candidates": 0}})
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers == {"/base_model", "/dataset", "/focus", "/seed", "/budget/max_candidates"}


@pytest.mark.parametrize("document", [[], "spec", 3, None])
def test_spec_that_is_no_object_is_refused(client: TestClient, document: Any) -> None:
    body, header = json.dumps(document), {"Content-Type": "application/json"}
    answer = client.post("/v1/jobs", content=body, headers=header)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == ""
    assert "Expected an object" in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("media_type", "body", "status", "code"),
    [
        ("application/json", b"{", 400, "malformed_body"),
        ("application/json", b"", 400, "malformed_body"),
        ("application/json", b"\xff{}", 400, "malformed_body"),
        ("application/json", b'{"seed": NaN}', 400, "malformed_body"),
        ("application/json", b'{"seed": 1, "seed": 2}', 400, "malformed_body"),
        ("application/json", b"[" * 100_000, 400, "malformed_body"),
        ("application/json", b'{"seed": ' + b"9" * 5000 + b"}", 400, "malformed_body"),
        ("application/yaml", b"a: [1", 400, "malformed_body"),
        ("application/yaml", b"a: &x [1]\nb: *x", 400, "malformed_body"),
        ("application/yaml", b"a: !!python/object/apply:os.getcwd []", 400, "malformed_body"),
        ("application/yaml", b"seed: 1\nseed: 2", 400, "malformed_body"),
        ("application/yaml", b"[" * 20_000, 400, "malformed_body"),
        ("application/yaml", b"a: 1\n---\nb: 2", 400, "malformed_body"),
        ("application/yaml", b"? [1]\n: 2", 400, "malformed_body"),
        ("application/json", b'{"\\ud800": 1}', 400, "malformed_body"),
        ("application/yaml", b'name: "\\ud800"', 400, "malformed_body"),
        ("application/yaml", b"2026-01-01: 2", 400, "malformed_body"),
        ("application/yaml", b"1: 2", 422, "invalid_request"),
        ("application/yaml", b"name: 2026-01-01\nseed: .nan", 422, "invalid_request"),
        ("text/plain", b"{}", 415, "unsupported_media_type"),
        ("application/x-www-form-urlencoded", b"a=1", 415, "unsupported_media_type"),
        ("application/json", b" " * 300_000, 413, "too_large"),
    ],
)
def test_body_that_cannot_be_read(
    client: TestClient, media_type: str, body: bytes, status: int, code: str
) -> None:
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": media_type})
    assert answer.status_code == status
    assert answer.json()["code"] == code


def test_body_of_unknown_length_is_cut_off(client: TestClient) -> None:
    sent = 0

    def endless() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 10_000

    answer = client.post("/v1/jobs", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/jobs/", 404, "not_found"),
        ("PUT", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs?limit=0", 422, "invalid_request"),
        ("GET", "/v1/jobs?status=done", 422, "invalid_request"),
        ("GET", "/v1/jobs?cursor=!!", 422, "invalid_request"),
        ("GET", "/v1/jobs?cursor=MjAyNg", 422, "invalid_request"),
        ("GET", "/v1/jobs?created_after=yesterday", 422, "invalid_request"),
    ],
)
def test_wrong_address_or_parameter(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)
    problem = answer.json()
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["code"] == code
    if status == 422:
        assert problem["errors"][0]["parameter"] in path
        assert "pointer" not in problem["errors"][0]


def test_misspelt_parameter_creates_nothing(client: TestClient) -> None:
    answer = client.post("/v1/jobs?dryrun=true", json=BASE)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "parameter": "dryrun",
            "detail": "There is no such parameter here.",
            "remedy": "Did you mean `dry_run`? Allowed: `dry_run`.",
        }
    ]
    assert client.get("/v1/jobs").json()["data"] == []
    assert client.get("/healthz?x=1").status_code == 422


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/jobs", "GET, POST"),
        ("/v1/uploads/upl_1", "GET, DELETE"),
        ("/v1/jobs/job_1/artifacts/a/b", "GET, HEAD"),
        ("/v1/jobs/job_1/cancel", "POST"),
    ],
)
def test_all_methods_of_a_path_are_named(client: TestClient, path: str, allowed: str) -> None:
    answer = client.request("PATCH", path)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == allowed


def test_bug_is_told_without_its_inside(
    client: TestClient, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret /srv/path")

    monkeypatch.setattr(service, "create", broken)
    answer = client.post("/v1/jobs", json=spec, headers={"X-Request-ID": "mine-1"})
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "mine-1"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_request_id_that_could_forge_a_log_is_replaced(client: TestClient) -> None:
    answer = client.get("/healthz", headers={"X-Request-ID": "a b\tc"})
    assert answer.headers["X-Request-ID"] != "a b\tc"
    assert len(answer.headers["X-Request-ID"]) == 32


def test_answers_carry_security_headers(client: TestClient) -> None:
    for path in ("/healthz", "/nowhere"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("parse", [bodies.parse_json, bodies.parse_yaml])
def test_both_languages_read_the_same(parse: Callable[[bytes], Any]) -> None:
    document = {"a": [1, 2.5, None, True], "b": {"ü": "x"}}
    assert parse(json.dumps(document).encode()) == document
