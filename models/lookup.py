"""Name lookups that end in time. The system's resolver takes no deadline and may hang for minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

Resolver = Callable[[str, int], Sequence[str]]
"""From a host name and a port to the texts of its addresses; raises OSError where there are none."""

MOST_AT_ONCE = 64

# A lookup cannot be ended from outside: one that hangs keeps its thread until the resolver gives up. When
# all places are held that way, further lookups wait for one, for as long as they may, and are not begun.
_places = threading.BoundedSemaphore(MOST_AT_ONCE)


def looked_up(resolve: Resolver, host: str, port: int, seconds: float) -> Sequence[str]:
    """What `resolve` gives, or raises.

    Raises:
        TimeoutError: it takes longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    places = _places
    if not places.acquire(timeout=seconds):
        raise TimeoutError
    answer: Future[Sequence[str]] = Future()

    def look() -> None:
        try:
            answer.set_result(resolve(host, port))
        except BaseException as error:
            answer.set_exception(error)
        finally:
            places.release()

    # Not of a pool: the interpreter waits for a pool's threads when it ends.
    threading.Thread(target=look, name="lookup", daemon=True).start()
    return answer.result(max(0.0, deadline - time.monotonic()))
