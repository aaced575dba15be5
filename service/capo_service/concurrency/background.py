"""Background tasks of the service; failures are logged, counted, and followed by a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_RESTART_SECONDS = 30.0  # before a failed task is restarted


class Background:
    """The background tasks of one service.

    Args:
        failed: called with the name of a task each time it fails.
    """

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []
        self.lost: str | None = None  # the vital task that failed

    def start(
        self, name: str, work: Callable[[], Awaitable[None]], *, vital: bool = False
    ) -> asyncio.Task[None]:
        """Run `work` until it returns or `close` is called.

        Args:
            name: for the log and the metric.
            work: a coroutine function; it is called again 30 s after a failure.
            vital: the service cannot work without it: after a failure it is not restarted, and
                `lost` has its name.
        """
        task = asyncio.create_task(self._keep(name, work, vital), name=name)
        self._tasks.append(task)
        return task

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]], vital: bool) -> None:
        while True:
            try:
                return await work()
            except Exception:
                self._failed(name)
                if vital:
                    self.lost = name
                    log.exception("background task failed: %s; restart the service", name)
                    return
                log.exception(
                    "background task failed: %s; restarting in %.0f s",
                    name,
                    _RESTART_SECONDS,
                )
            await asyncio.sleep(_RESTART_SECONDS)

    async def close(self) -> None:
        """Cancel every task."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
