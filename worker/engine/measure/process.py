"""Memory of processes and their waiting, from the kernel's books. Linux only; imports nothing heavy."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def peak_rss_bytes(pid: int | None = None) -> int:
    """Largest resident set that a living process ever had, in bytes; this process by default.

    Not `getrusage`: its figure survives exec, so a small child of a large parent looks large.
    Raises FileNotFoundError when there is no such process.
    """
    return _status_bytes(os.getpid() if pid is None else pid, "VmHWM")


def tree_rss_bytes(pid: int | None = None) -> int:
    """Resident bytes, now, of a process and all its descendants. A page they share counts for each."""
    root = os.getpid() if pid is None else pid
    return sum(_rss_or_gone(process) for process in [root, *_descendants(root)])


def waited_ns(threads: Path = Path("/proc/self/task")) -> int:
    """Nanoseconds that this process's threads were ready to run and given no processor, summed.

    0 where the kernel keeps no such books (CONFIG_SCHED_INFO). What a thread waited that has ended since is
    no longer in it.
    """
    books = map(_read_or_gone, threads.glob("*/schedstat"))
    return sum(int(book.split()[1]) for book in books if book is not None)


def others_busy(threads: Path = Path("/proc/self/task")) -> bool:
    """Whether a thread of this process, other than the one that asks, computes or waits for a processor."""
    here = str(threading.get_native_id())
    books = (_read_or_gone(thread / "stat") for thread in threads.iterdir() if thread.name != here)
    return any(_stat_fields(book)[0] == "R" for book in books if book is not None)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process in _processes():
        parent = _parent(process)
        if parent is not None:
            children.setdefault(parent, []).append(process)
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int | None:
    book = _read_or_gone(Path(f"/proc/{pid}/stat"))
    return None if book is None else int(_stat_fields(book)[1])


def _stat_fields(book: str) -> list[str]:
    """State, parent, and what follows: the fields behind the name, which may hold anything."""
    return book.rpartition(")")[2].split()


def _read_or_gone(book: Path) -> str | None:
    """None where the process or thread ended between the listing and here."""
    try:
        return book.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None


def _rss_or_gone(pid: int) -> int:
    try:
        return _status_bytes(pid, "VmRSS")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0  # a zombie has no memory left
