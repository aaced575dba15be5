"""Ends an engine's processes when the service that started them is gone, however it went.

A service that is killed outright takes nobody with it: its engine would live on and hold the GPU's
memory, and the service that is started next could not load. So a small process waits at the end of
a pipe that only the service holds open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class Reaper:
    """Watches over processes of this service until `close`.

    Args:
        pids: of the processes.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        named = [f"{pid}:{_born(pid)}" for pid in pids]
        # Alone in its session, so that a signal to the service's group does not end it first.
        self._process = subprocess.Popen(  # noqa: S603  # our own file
            [sys.executable, "-I", "-S", __file__, *named],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def close(self) -> None:
        """Watch no longer; the processes are left alone."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def _born(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def main() -> None:
    """Wait until the pipe's other end is closed, then end the processes that are named."""
    while os.read(0, 4096):
        pass
    for named in sys.argv[1:]:
        pid, _, born = named.partition(":")
        if born and _born(int(pid)) == born:  # and not another one of the same number
            with suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    main()
