"""Ends an engine's processes when the service that started them has ended, even by SIGKILL.

A service that gets SIGKILL cannot end its children: its engine would keep running and hold the
GPU's memory, and the next service could not load. So a small process waits for the end of a pipe
that only the service holds open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class OrphanReaper:
    """Ends processes of this service with it, until `close`.

    Args:
        pids: ids of the processes.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        processes = [f"{pid}:{_start_time(pid)}" for pid in pids]
        # In a session of its own, so that a signal to the service's group does not end it first.
        self._process = subprocess.Popen(  # noqa: S603  # our own file
            [sys.executable, "-I", "-S", __file__, *processes],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def close(self) -> None:
        """Stop; the processes keep running."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def _start_time(pid: int) -> str:
    """When a process was started, in clock ticks since boot; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def main() -> None:
    """Wait until the pipe's other end is closed, then end the processes in the arguments."""
    while os.read(0, 4096):
        pass
    for process in sys.argv[1:]:
        pid, _, started = process.partition(":")
        if started and _start_time(int(pid)) == started:  # not a later process with the same id
            with suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    main()
