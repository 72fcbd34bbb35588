"""Looks at how a database does what is asked: which rows each statement reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event

from models.database import Database

LARGE = {"job", "event", "artifact", "upload", "job_upload", "blob", "idempotency", "audit_event"}
SCAN = re.compile(rf"^SCAN ({'|'.join(LARGE)})\b(?!.* USING )")
"""Of a table from end to end; that of a whole index is told by the number of steps."""


@dataclass
class Seen:
    """What was seen of the statements: tables read from end to end, and the most rows of one step."""

    statements: int = 0
    scanned: set[str] = field(default_factory=set)
    most_rows: int = 0
    steps: int = 0


@contextmanager
def watched(database: Database) -> Iterator[Seen]:
    """Explain every statement before it runs; SELECT on Postgres with the rows that it really reads."""
    seen = Seen()

    def look(_c: Any, cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        if statement.split(maxsplit=1)[0] not in ("SELECT", "WITH", "UPDATE", "DELETE"):
            return
        seen.statements += 1
        own = cursor.connection.cursor()
        if database.engine.dialect.name == "sqlite":
            own.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            for *_ids, line in own.fetchall():
                if match := SCAN.match(line):
                    seen.scanned.add(match.group(1))
        else:
            reads = not re.search(r"^(UPDATE|DELETE)|FOR UPDATE", statement)
            own.execute(f"EXPLAIN (FORMAT JSON{', ANALYZE' if reads else ''}) {statement}", parameters)
            _walk(own.fetchone()[0][0]["Plan"], seen)

    def count() -> int:
        seen.steps += 100
        return 0

    def connected(connection: Any, *_: Any) -> None:
        connection.set_progress_handler(count, 100)

    event.listen(database.engine, "before_cursor_execute", look)
    if database.engine.dialect.name == "sqlite":
        database.engine.dispose()
        event.listen(database.engine, "connect", connected)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", look)
        if database.engine.dialect.name == "sqlite":
            event.remove(database.engine, "connect", connected)
            database.engine.dispose()


def _walk(node: dict[str, Any], seen: Seen) -> None:
    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE:
        seen.scanned.add(node["Relation Name"])
    if "Actual Rows" in node:
        passed_over = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        seen.most_rows = max(seen.most_rows, (node["Actual Rows"] + passed_over) * node["Actual Loops"])
    for child in node.get("Plans", []):
        _walk(child, seen)
