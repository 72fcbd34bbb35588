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
    return sum(_waited_or_gone(book) for book in threads.glob("*/schedstat"))


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
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None  # it ended between the listing and here
    return int(stat.rpartition(")")[2].split()[1])


def others_busy(threads: Path = Path("/proc/self/task")) -> bool:
    """Whether a thread of this process, other than the one that asks, computes or waits for a processor."""
    here = threading.get_native_id()
    return any(
        _state_or_gone(thread / "stat") == "R" for thread in threads.iterdir() if thread.name != str(here)
    )


def _state_or_gone(stat: Path) -> str:
    try:
        return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _waited_or_gone(book: Path) -> int:
    try:
        return int(book.read_text(encoding="ascii").split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0  # the thread ended between the listing and here


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
