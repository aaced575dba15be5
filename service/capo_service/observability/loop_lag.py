"""Event-loop lag caused by this process, sampled every 5 ms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_PERIOD = 0.005
_WINDOW = 60.0


class LoopWatch:
    """Measures how late each 5 ms timer fires.

    A timer is late because this process held the loop (a long callback, or a thread that held the
    GIL) or because the machine ran other processes. Only lag during which this process used CPU
    time counts.

    Args:
        note: called with the lag of each timer in seconds.
    """

    def __init__(self, note: Callable[[float], None]) -> None:
        self._note = note
        self._since = time.monotonic()
        self._this = self._last = 0.0

    @property
    def longest(self) -> float:
        """Seconds of the longest block in the last one to two minutes."""
        self._turn()
        return max(self._this, self._last)

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._since >= _WINDOW:
            self._last = self._this if now - self._since < 2 * _WINDOW else 0.0
            self._this, self._since = 0.0, now

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            due, used = time.monotonic() + _PERIOD, time.process_time()
            await asyncio.sleep(_PERIOD)
            late = max(time.monotonic() - due, 0.0)
            blocked = min(late, time.process_time() - used)
            self._note(blocked)
            self._turn()
            self._this = max(self._this, blocked)
