"""Sends the webhook deliveries that the job table's transactions wrote.

`python -m worker.deliverer` runs one; more than one share the work. Imports no torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import DBAPIError
from standardwebhooks import Webhook as Signer

from models import outbox
from models.database import Database
from models.outbound import Answer, OutboundFailed, OutboundPolicy, OutboundRefused, post
from models.outbox import ClaimedDelivery, Outcome
from models.settings import Settings
from models.signing import derive_secret, secret_check
from worker.process import run_until_told

USER_AGENT = "axforge-webhooks/1"
SPARE_SECONDS = 60.0  # of a lease, for the database
SHOWN_CHARACTERS = 200
FORGET_SECONDS = 600.0
log = structlog.get_logger(__name__)


class NoSecretKey(Exception):
    """There is no key that webhooks can be signed with."""


@dataclass(frozen=True)
class Sender:
    """Makes one attempt of a delivery."""

    key: str
    policy: OutboundPolicy
    timeout: float
    post: Callable[..., Answer] = field(default=post)

    def send(self, claimed: ClaimedDelivery) -> Outcome:
        """Sign and send; whatever goes wrong is in the outcome."""
        began = time.monotonic()

        def outcome(error: str | None, answer: Answer | None = None) -> Outcome:
            return Outcome(
                duration_ms=round((time.monotonic() - began) * 1000),
                status_code=answer.status if answer else None,
                error=error,
                response=_shown(answer.start) if answer and error else "",
                retry_after=_seconds(answer.retry_after) if answer else None,
            )

        secrets = [derive_secret(self.key, claimed.webhook_id, salt) for salt in claimed.salts]
        if secret_check(secrets[0]) != claimed.secret_check:
            return outcome("The service's key has changed since the secret was made; rotate the secret.")
        body = claimed.payload.encode()
        try:
            answer = self.post(
                claimed.url, body, _headers(claimed, secrets), self.policy, timeout=self.timeout
            )
        except OutboundRefused as error:
            return outcome(f"{error} {error.remedy}")
        except OutboundFailed as error:
            return outcome(str(error))
        return outcome(_complaint(answer.status), answer)


class Deliverer:
    """Claims what is due and sends it, several at a time."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Raises NoSecretKey."""
        if settings.secret_key is None:
            raise NoSecretKey("AXFORGE_SECRET_KEY is not set: there is nothing to sign webhooks with")
        self._database = database
        self._settings = settings
        self._sender = Sender(
            settings.secret_key.get_secret_value(), settings.outbound, settings.webhook_timeout_seconds
        )
        self._pool = ThreadPoolExecutor(settings.webhook_concurrency, "webhook")
        self._under_way: set[Future[None]] = set()

    def send_due(self) -> int:
        """Begin to send as much of what is due as there are free senders. Returns how much that is."""
        self._under_way = {future for future in self._under_way if not future.done()}
        free = self._settings.webhook_concurrency - len(self._under_way)
        if free == 0:
            return 0
        with self._database.transaction() as session:
            claimed = outbox.claim(session, free, self._settings.webhook_timeout_seconds + SPARE_SECONDS)
        self._under_way |= {self._pool.submit(self._deliver, each) for each in claimed}
        return len(claimed)

    def wait(self, seconds: float | None = None) -> None:
        """Until one of those under way has ended; without a limit, until all have."""
        if seconds is None:
            wait(self._under_way)
        elif self._under_way:
            wait(self._under_way, seconds, FIRST_COMPLETED)

    def close(self) -> None:
        """Let those under way end."""
        self._pool.shutdown()

    def _deliver(self, claimed: ClaimedDelivery) -> None:
        bound = log.bind(webhook_id=claimed.webhook_id, delivery_id=claimed.id, attempt=claimed.attempt)
        try:
            outcome = self._sender.send(claimed)
            with self._database.transaction() as session:
                recorded = outbox.record(session, claimed, outcome)
        except DBAPIError as error:  # its lease runs out, and it is sent again
            bound.warning("database_unreachable", reason=type(error.orig).__name__)
            return
        except Exception:  # the same; the thread's error would be seen by nobody
            bound.exception("delivery_broke_off")
            return
        if recorded is None:
            bound.warning("delivery_taken_over")
        elif outcome.error is not None:
            bound.warning("delivery_failed", status=recorded.status, status_code=outcome.status_code)
            if recorded.disabled is not None:
                bound.warning("webhook_disabled", reason=recorded.disabled)


def run_forever(stop: threading.Event, settings: Settings) -> None:
    """Deliver until told to stop; survives an unreachable database."""
    database = Database(settings.database)
    deliverer = Deliverer(database, settings)
    forgotten = float("-inf")
    try:
        while not stop.is_set():
            begun = 0
            try:
                begun = deliverer.send_due()
                if time.monotonic() - forgotten > FORGET_SECONDS:
                    with database.transaction() as session:
                        removed = outbox.forget(session, settings.webhook_days)
                    if removed < outbox.FORGOTTEN_AT_ONCE:  # else there are more, for the next round
                        forgotten = time.monotonic()
            except DBAPIError as error:
                log.warning("database_unreachable", reason=type(error.orig).__name__)
            if begun:
                deliverer.wait(settings.deliver_seconds)  # a webhook may have more
            else:
                stop.wait(settings.deliver_seconds)
    finally:
        deliverer.close()
        database.close()


def _headers(claimed: ClaimedDelivery, secrets: list[str]) -> dict[str, str]:
    moment = datetime.now(UTC)
    signatures = [Signer(secret).sign(claimed.id, moment, claimed.payload) for secret in secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "webhook-id": claimed.id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _complaint(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"The receiver answered {status}: redirects are not followed. Give the URL that it points to."
    return f"The receiver answered {status}."


def _shown(start: bytes) -> str:
    """The beginning of an answer as a text that can be stored and shown anywhere."""
    text = start.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else " " for each in text[:SHOWN_CHARACTERS]).strip()


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isascii() and header.isdigit() else None


if __name__ == "__main__":
    run_until_told("deliverer", run_forever)
