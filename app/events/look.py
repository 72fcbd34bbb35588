"""What a stream reads at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.event import Event
from models.job import Job


@dataclass(frozen=True)
class Look:
    """A job and its next events, read together, so that a job that is done has told all of them."""

    job: Job
    events: Sequence[Event]
