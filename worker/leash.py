"""Child processes that do not outlive their parent, even if it is killed.

`python -m worker.leash SIGNAL PARENT COMMAND...` asks the kernel (PR_SET_PDEATHSIG) for that
signal on the parent's death and becomes the command. Doing so after the fork, in a process of its
own, avoids running Python between fork and exec of a threaded process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def leashed(command: list[str], on_death: signal.Signals) -> list[str]:
    """The command line that runs `command` and ends it with a signal when this process dies.

    The kernel watches the thread that starts the child: start it from one that lives long.
    """
    return [sys.executable, "-m", "worker.leash", str(int(on_death)), str(os.getpid()), *command]


def signal_on_parent_death(on_death: int, parent: int) -> None:
    """Have this process get a signal when its parent dies. Exits if it died already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, on_death, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Become the command given on the command line."""
    on_death, parent, *command = sys.argv[1:]
    signal_on_parent_death(int(on_death), int(parent))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
