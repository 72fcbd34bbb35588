"""Work of a stage in shares, which other processes may do as well: what the engine knows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from worker.engine.reporting import Stage

Share = dict[str, Any]
"""What is to be done, as JSON: enough for a process that has the finished stages' files."""
Outcome = dict[str, Any]
"""What came of it, as JSON."""


@dataclass(frozen=True)
class Outcomes:
    """In the order of the shares; `by_others` is how many of them other processes gave."""

    values: tuple[Outcome, ...]
    by_others: int


class Crew(Protocol):
    """Implemented by the runner (through the queue), by `Alone`, and by the tests."""

    def share(
        self,
        stage: Stage,
        shares: Sequence[Share],
        work: Callable[[Share], Outcome],
        told: Callable[[int], None],
    ) -> Outcomes:
        """Have all shares of a stage done, by this process with `work` or by others with the same code.

        What comes back is the same whoever did it. `told` hears the numbers of shares that came from
        elsewhere. Raises Stopped when the run was asked to stop, and what `work` raises.
        """


class Alone:
    """Does all shares itself, one after the other."""

    def share(
        self,
        stage: Stage,
        shares: Sequence[Share],
        work: Callable[[Share], Outcome],
        told: Callable[[int], None],
    ) -> Outcomes:
        """The outcomes of `work`."""
        return Outcomes(tuple(work(share) for share in shares), 0)
