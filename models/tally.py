"""Running totals for `/metrics`, kept with what they count: a row a series, raised in the same transaction.

Counting rows at every scrape would cost more with every job, and totals would fall when old jobs
are cleared away. What is counted here is committed or rolled back with the change itself, so a run
that lost its lease counts nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from sqlalchemy import Float, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base
from models.statements import insert_into

BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds of the histograms, in seconds: from a stage of a tiny model to a day."""
OVER = "+Inf"
SUM = "sum"

_PENDING = "tally"
Key = tuple[str, str, str]


class Tally(Base):
    """`part` is empty for a counter; for a histogram it is a bucket's upper bound, or `sum`."""

    __tablename__ = "tally"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    label: Mapped[str] = mapped_column(String(64), primary_key=True)
    part: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[float] = mapped_column(Float(53))


def count(session: Session, name: str, label: str) -> None:
    """Raise a counter by one when the session's transaction is committed."""
    _add(session, (name, label, ""), 1.0)


def observe(session: Session, name: str, label: str, value: float) -> None:
    """Add a value to a histogram when the session's transaction is committed."""
    place = bisect_left(BUCKETS, value)
    bucket = f"{BUCKETS[place]:g}" if place < len(BUCKETS) else OVER
    _add(session, (name, label, bucket), 1.0)
    _add(session, (name, label, SUM), value)


def write(session: Session) -> None:
    """Write what was counted. `Database.transaction` calls it last.

    In one order for all transactions and right before they commit: rows that everybody raises
    must neither be waited for in a circle nor for long.
    """
    pending: dict[Key, float] = session.info.pop(_PENDING, {})
    for (name, label, part), value in sorted(pending.items()):
        added = insert_into(session, Tally).values(name=name, label=label, part=part, value=value)
        session.execute(
            added.on_conflict_do_update(
                index_elements=[Tally.name, Tally.label, Tally.part],
                set_={"value": Tally.value + added.excluded.value},
            )
        )


def read(session: Session) -> Iterator[tuple[Key, float]]:
    """Every total; there are a few dozen."""
    for row in session.scalars(select(Tally)):
        yield (row.name, row.label, row.part), row.value


def _add(session: Session, key: Key, value: float) -> None:
    pending: dict[Key, float] = session.info.setdefault(_PENDING, {})
    pending[key] = pending.get(key, 0.0) + value
