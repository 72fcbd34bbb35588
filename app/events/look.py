"""What the streams of a job read and send at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """A job and its next events, read together, so that a job that is done has told all of them.

    They are written as messages of the stream already: many streams send the same look.
    """

    job_id: str
    version: int
    done: bool
    events: bytes
    count: int
    last_id: int | None
    progress: bytes
    end: bytes
