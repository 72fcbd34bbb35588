"""Webhook deliveries as guarded statements: announce, claim, record, replay, hold, resume.

Each function runs inside the caller's `Database.transaction()`. A delivery is written in the
transaction of the event that it tells, and sent at least once: a sender holds it for a lease, and
what it records counts only while `attempt` is still its own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic_core import to_jsonable_python
from sqlalchemy import Boolean, ColumnElement, case, func, literal_column, or_, select, update
from sqlalchemy.orm import Session

from models import tally
from models.artifact import Artifact
from models.base import utc_now
from models.database import after, now
from models.job import Job
from models.statements import remove_oldest
from models.webhook import DeliveryStatus, Webhook, WebhookDelivery, WebhookEvent

# About a day: 5 s, 20 s, 80 s, 5 min, 21 min, 1.4 h, 5.7 h, then every 6 h.
FORGOTTEN_AT_ONCE = 1000  # deliveries in one transaction
FIRST_DELAY_SECONDS = 5.0
DELAY_FACTOR = 4.0
LONGEST_DELAY_SECONDS = 6 * 3600.0
MAX_FAILURES = 11
JITTER = 0.2
DISABLED_AFTER = timedelta(days=5)
KEPT_TRIES = 20
GONE = 410
TOLD = frozenset(event.value for event in WebhookEvent)
JOB_FIELDS = (
    *("id", "name", "status", "done", "attempt", "error", "result", "spec_digest"),
    *("created_at", "updated_at", "started_at", "finished_at", "expires_at"),
)


SOMEBODY_LISTENS: ColumnElement[bool] = literal_column(
    "EXISTS (SELECT 1 FROM webhook WHERE webhook.enabled AND webhook.tenant ="
    " (SELECT job.tenant FROM job WHERE job.id = CAST(event.job_id AS VARCHAR)))",
    Boolean(),
)
"""Of an event that is just written: whether a webhook might want to be told, so that `announce_job` need
not be called in vain. As text, since SQLAlchemy leaves the names of tables out of SQLite's RETURNING; with
a cast, since there SQLite knows no column's type and reads the whole table without it."""


@dataclass(frozen=True)
class ClaimedDelivery:
    """What a sender needs."""

    id: str
    attempt: int
    webhook_id: str
    url: str
    type: str
    payload: str
    salts: tuple[str, ...]
    secret_check: str


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: `error` is None if the receiver took it."""

    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    response: str = ""
    retry_after: float | None = None


@dataclass(frozen=True)
class Recorded:
    """What an attempt led to; `disabled` says why its webhook was just disabled, if it was."""

    status: DeliveryStatus
    disabled: str | None = None


def announce_job(session: Session, job_id: str, type: str) -> None:
    """Write a delivery to every webhook of the job's tenant that wants to be told of this."""
    if type not in TOLD:
        return
    listening = (
        select(Webhook.id, Webhook.events)
        .join(Job, Job.tenant == Webhook.tenant)
        .where(Job.id == job_id, Webhook.enabled.is_(True))
    )
    wanting = [webhook_id for webhook_id, events in session.execute(listening) if type in events]
    if not wanting:
        return
    payload = _payload(type, _job_document(session, job_id))
    for webhook_id in wanting:
        _add(session, webhook_id, type, payload, job_id)


def announce_test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Write a delivery that only tries out the webhook."""
    data = {"id": webhook.id, "object": "webhook", "description": webhook.description}
    return _add(session, webhook.id, WebhookEvent.WEBHOOK_TEST, _payload(WebhookEvent.WEBHOOK_TEST, data))


def claim(session: Session, limit: int, lease_seconds: float) -> list[ClaimedDelivery]:
    """Take up to `limit` deliveries that are due, one a webhook, those of healthy webhooks first.

    A webhook with a delivery under way gets no other: a slow receiver holds up itself only.
    """
    due = (
        select(WebhookDelivery.webhook_id)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(
            WebhookDelivery.status == DeliveryStatus.PENDING,
            WebhookDelivery.available_at <= now(session),
            Webhook.enabled.is_(True),
        )
        .group_by(WebhookDelivery.webhook_id, Webhook.failing_since)
        .having(_free(func.max(WebhookDelivery.lease_until), session))
        .order_by(case((Webhook.failing_since.is_(None), 0), else_=1), func.min(WebhookDelivery.available_at))
        .limit(limit)
    )
    found = [_claim_of(session, webhook_id, lease_seconds) for webhook_id in session.scalars(due).all()]
    return [claimed for claimed in found if claimed is not None]


def record(session: Session, claimed: ClaimedDelivery, outcome: Outcome) -> Recorded | None:
    """Write down how the attempt ended, and when the next one is. None: another sender holds it now."""
    webhook = session.get(Webhook, claimed.webhook_id, with_for_update={"key_share": True})
    held = select(WebhookDelivery).where(
        WebhookDelivery.id == claimed.id, WebhookDelivery.attempt == claimed.attempt
    )
    delivery = session.scalars(held.with_for_update()).one_or_none()
    if webhook is None or delivery is None or delivery.lease_until is None:
        return None
    delivery.lease_until = None
    attempt = {
        "attempt": claimed.attempt,
        "at": to_jsonable_python(utc_now() - timedelta(milliseconds=outcome.duration_ms)),
        "duration_ms": outcome.duration_ms,
        "status_code": outcome.status_code,
        "error": outcome.error,
        "response": outcome.response,
    }
    delivery.tries = [*delivery.tries, attempt][-KEPT_TRIES:]
    if outcome.error is None:
        delivery.status, delivery.delivered_at = DeliveryStatus.DELIVERED, utc_now()
        webhook.failing_since = None
        tally.count(session, "webhook_deliveries", "delivered")
        return Recorded(delivery.status)
    return _record_failure(session, webhook, delivery, outcome)


def replay(session: Session, delivery: WebhookDelivery) -> None:
    """Send it again now, under the same message id, with all attempts."""
    delivery.status = DeliveryStatus.PENDING
    delivery.failures = 0
    if delivery.lease_until is not None:  # whoever is sending it may go on, but records nothing
        delivery.attempt, delivery.lease_until = delivery.attempt + 1, None
    delivery.available_at = utc_now()
    session.flush()


def hold(session: Session, webhook: Webhook, reason: str | None) -> None:
    """Disable the webhook; what is due waits. Its tenant's other webhooks are told if we did it."""
    webhook.enabled, webhook.disabled_reason, webhook.updated_at = False, reason, utc_now()
    _switch(session, webhook, DeliveryStatus.PENDING, DeliveryStatus.HELD)
    if reason is not None:
        _announce_disabled(session, webhook)


def resume(session: Session, webhook: Webhook) -> None:
    """Enable the webhook; what waited is sent now."""
    webhook.enabled, webhook.disabled_reason, webhook.updated_at = True, None, utc_now()
    webhook.failing_since = None
    _switch(session, webhook, DeliveryStatus.HELD, DeliveryStatus.PENDING)


def forget(session: Session, days: float, limit: int = FORGOTTEN_AT_ONCE) -> int:
    """Remove deliveries older than they are listed, the oldest first. Returns how many."""
    before = after(session, -days * 86400)
    return remove_oldest(session, (WebhookDelivery.id,), WebhookDelivery.created_at, before, limit)


def delay_before(failures: int, jitter: float) -> float:
    """Seconds to wait after that many failures; `jitter` is from -1 to 1."""
    delay = min(FIRST_DELAY_SECONDS * DELAY_FACTOR ** (failures - 1), LONGEST_DELAY_SECONDS)
    return delay * (1 + JITTER * jitter)


def _add(
    session: Session, webhook_id: str, type: str, payload: str, job_id: str | None = None
) -> WebhookDelivery:
    delivery = WebhookDelivery(webhook_id=webhook_id, job_id=job_id, type=type, payload=payload)
    session.add(delivery)
    session.flush()
    return delivery


def _claim_of(session: Session, webhook_id: str, lease_seconds: float) -> ClaimedDelivery | None:
    following = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.webhook_id == webhook_id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
            WebhookDelivery.available_at <= now(session),
            _free(WebhookDelivery.lease_until, session),
        )
        .order_by(WebhookDelivery.available_at, WebhookDelivery.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id == following, _free(WebhookDelivery.lease_until, session))
        .values(attempt=WebhookDelivery.attempt + 1, lease_until=after(session, lease_seconds))
        .returning(WebhookDelivery.id, WebhookDelivery.attempt, WebhookDelivery.type, WebhookDelivery.payload)
        .execution_options(synchronize_session=False)
    )
    row = session.execute(statement).one_or_none()
    if row is None:
        return None
    webhook = session.get_one(Webhook, webhook_id)
    salts = [webhook.salt]
    if webhook.previous_salt and webhook.previous_until and webhook.previous_until > utc_now():
        salts.append(webhook.previous_salt)
    return ClaimedDelivery(
        id=row.id,
        attempt=row.attempt,
        webhook_id=webhook_id,
        url=webhook.url,
        type=row.type,
        payload=row.payload,
        salts=tuple(salts),
        secret_check=webhook.secret_check,
    )


def _free(lease_until: Any, session: Session) -> Any:
    return or_(lease_until.is_(None), lease_until < now(session))


def _record_failure(
    session: Session, webhook: Webhook, delivery: WebhookDelivery, outcome: Outcome
) -> Recorded:
    delivery.failures += 1
    webhook.failing_since = webhook.failing_since or utc_now()
    gone = outcome.status_code == GONE
    if gone or delivery.failures >= MAX_FAILURES:
        delivery.status = DeliveryStatus.EXHAUSTED
    else:
        delay = max(delay_before(delivery.failures, random.uniform(-1, 1)), outcome.retry_after or 0.0)
        delivery.available_at = utc_now() + timedelta(seconds=min(delay, LONGEST_DELAY_SECONDS))
    status = delivery.status
    tally.count(
        session, "webhook_deliveries", "exhausted" if status == DeliveryStatus.EXHAUSTED else "failed"
    )
    if not webhook.enabled or not (gone or utc_now() - webhook.failing_since > DISABLED_AFTER):
        return Recorded(status)
    reason = "gone" if gone else "failing"
    hold(session, webhook, reason)
    return Recorded(status, reason)


def _announce_disabled(session: Session, webhook: Webhook) -> None:
    type = WebhookEvent.WEBHOOK_DISABLED
    others = select(Webhook).where(
        Webhook.tenant == webhook.tenant, Webhook.id != webhook.id, Webhook.enabled.is_(True)
    )
    data = {"id": webhook.id, "object": "webhook", "disabled_reason": webhook.disabled_reason}
    for other in session.scalars(others).all():
        if type in other.events:
            _add(session, other.id, type, _payload(type, data))


def _switch(session: Session, webhook: Webhook, before: DeliveryStatus, behind: DeliveryStatus) -> None:
    session.flush()
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.status == before)
        .values(status=behind)
    )


def _payload(type: str, data: Mapping[str, Any]) -> str:
    document = {"type": type, "timestamp": utc_now(), "data": data}
    return json.dumps(to_jsonable_python(document), ensure_ascii=False, separators=(",", ":"))


def _job_document(session: Session, job_id: str) -> dict[str, Any]:
    """The job as GET shows it, without what is large: spec, progress, links."""
    job = session.get_one(Job, job_id, populate_existing=True)
    files = select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)
    met = (job.result or {}).get("constraints_met")
    return {
        "object": "job",
        **{name: getattr(job, name) for name in JOB_FIELDS},
        "metadata": job.metadata_,
        "constraints_met": None if met is None else bool(met),
        "artifacts": [
            {"name": file.name, "size": file.size, "sha256": file.sha256, "media_type": file.media_type}
            for file in session.scalars(files)
        ],
    }
