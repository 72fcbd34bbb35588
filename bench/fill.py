"""Fills a database as a service of some age would have: many ended jobs, a queue, several tenants."""

from __future__ import annotations

import json

from sqlalchemy import text

from models.database import Database
from models.spec import JobSpec

RUNNING = 20
DUE = 200
NUMBERS = "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < :jobs)"
DIGITS = "substr(CAST(1000000000000 + i AS VARCHAR), 2)"
TENANT = "CASE WHEN i % 10 < 6 THEN 'default' ELSE 'tenant-' || (i % 10) END"
ENDED = f":jobs - :queued - {RUNNING}"
SPEC = JobSpec.model_validate({"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}})

JOBS = f"""
INSERT INTO job (id, tenant, device, name, status, spec, spec_digest, metadata, priority, attempt, losses,
    version, created_at, updated_at, available_at, started_at, finished_at, claimed_at, lease_until,
    run_seconds, sweep_at, cancel_requested)
{NUMBERS}
SELECT 'job_' || {DIGITS}, {TENANT}, CASE WHEN i % 7 = 3 THEN 'cuda' ELSE 'cpu' END,
    CASE WHEN i = 6 THEN 'rare' WHEN i % 10 = 1 THEN 'name-' || i ELSE 'job' END,
    CASE WHEN i > :jobs - :queued THEN 'queued' WHEN i > {ENDED} THEN 'running'
        WHEN i % 3 = 0 THEN 'failed' WHEN i % 30 = 1 THEN 'cancelled' ELSE 'succeeded' END,
    {{json}}, '{"0" * 64}', {{none}}, 0, CASE WHEN i > :jobs - :queued THEN 0 ELSE 1 END, 0, 1,
    {{created}}, {{created}}, {{created}},
    CASE WHEN i > :jobs - :queued THEN NULL ELSE {{created}} END,
    CASE WHEN i > {ENDED} THEN NULL ELSE {{created}} END,
    CASE WHEN i > :jobs - :queued THEN NULL ELSE {{created}} END,
    CASE WHEN i > {ENDED} AND i <= :jobs - :queued THEN {{future}} END,
    0, CASE WHEN i > {ENDED} THEN NULL WHEN i <= {DUE} THEN {{created}} ELSE {{future}} END, {{false}}
FROM numbers"""

AROUND = (
    f"""INSERT INTO event (job_id, attempt, type, level, message, data, created_at)
    {NUMBERS} SELECT 'job_' || {DIGITS}, 1, 'job.created', 'info', 'The job is queued.', {{none}}, {{created}}
    FROM numbers""",
    f"""INSERT INTO blob (sha256, generation, check_at)
    {NUMBERS} SELECT '{"0" * 52}' || {DIGITS}, 0, CASE WHEN i <= {DUE} THEN {{created}} END FROM numbers""",
    f"""INSERT INTO artifact (id, job_id, name, size, sha256, generation, media_type, created_at)
    {NUMBERS} SELECT 'art_' || {DIGITS}, 'job_' || {DIGITS}, 'model.onnx', 1, '{"0" * 52}' || {DIGITS}, 0,
    'application/octet-stream', {{created}} FROM numbers""",
    f"""INSERT INTO upload (id, tenant, kind, filename, size, sha256, generation, media_type, created_at,
    expires_at)
    {NUMBERS} SELECT 'upl_' || {DIGITS}, {TENANT}, 'dataset', 'd.csv', 1, '{"0" * 52}' || {DIGITS}, 0,
    'text/csv',
    {{created}}, CASE WHEN i <= {DUE} THEN {{created}} ELSE {{future}} END FROM numbers""",
    f"""INSERT INTO job_upload (job_id, upload_id)
    {NUMBERS} SELECT 'job_' || {DIGITS}, 'upl_' || {DIGITS} FROM numbers WHERE i % 2 = 0""",
    f"""INSERT INTO idempotency (tenant, key, request_digest, status, headers, body, created_at)
    {NUMBERS} SELECT {TENANT}, 'key-' || i, '{"0" * 64}', 202, {{none}}, '',
    CASE WHEN i <= {DUE} THEN {{long_ago}} ELSE {{created}} END FROM numbers""",
    f"""INSERT INTO audit_event (id, tenant, action, at, data)
    {NUMBERS} SELECT 'aud_' || {DIGITS}, {TENANT}, 'job.created',
    CASE WHEN i <= {DUE} THEN {{long_ago}} ELSE {{created}} END, {{none}} FROM numbers""",
    f"""INSERT INTO compute_use (tenant, day, seconds)
    {NUMBERS} SELECT DISTINCT {TENANT}, {{day}}, 60.0 FROM numbers WHERE i <= 10000""",
    f"INSERT INTO stored_use (tenant, bytes) {NUMBERS} SELECT {TENANT}, 2 * count(*) FROM numbers GROUP BY 1",
)
SQLITE = {
    "json": ":spec",
    "none": "'{}'",
    "false": "0",
    "created": "strftime('%Y-%m-%d %H:%M:%f000', 'now', (i - :jobs - 1) || ' seconds')",
    "future": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '30 days')",
    "day": "date('now', '-' || (i / 10) || ' days')",
    "long_ago": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '-500 days')",
}
POSTGRES = {
    "json": "CAST(:spec AS JSON)",
    "none": "CAST('{}' AS JSON)",
    "false": "FALSE",
    "created": "now() - make_interval(secs => :jobs + 1 - i)",
    "future": "now() + interval '30 days'",
    "day": "current_date - CAST(i / 10 AS INTEGER)",
    "long_ago": "now() - interval '500 days'",
}


def fill(database: Database, jobs: int, *, queued: float, around: bool = False) -> None:
    """Add that many jobs a second apart, the newest a moment old, the newest `queued` part of them waiting.

    Args:
        around: As many events, artifacts, uploads, blobs, idempotency keys, audit events, too; a few are due.
    """
    words = SQLITE if database.engine.dialect.name == "sqlite" else POSTGRES
    values = {"jobs": jobs, "queued": round(jobs * queued), "spec": json.dumps(SPEC.model_dump(mode="json"))}
    with database.transaction() as session:
        for statement in (JOBS, *(AROUND if around else ())):
            filled_in = text(_with(statement, words))
            session.execute(filled_in, {name: values[name] for name in filled_in._bindparams})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if words is SQLITE else "VACUUM ANALYZE")


def _with(statement: str, words: dict[str, str]) -> str:
    for name, word in words.items():
        statement = statement.replace(f"{{{name}}}", word)
    return statement
