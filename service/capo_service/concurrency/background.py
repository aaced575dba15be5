"""Tasks that run as long as the service: one that fails is logged and counted, never lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 30.0  # before a task that failed is started again


class Background:
    """The background tasks of one service.

    Args:
        failed: is told the name of a task at each of its failures.
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
            work: a coroutine function; called again after a pause where it failed.
            vital: without it the service must not go on: `lost` names it, and it stays stopped.
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
                    "background task failed: %s; it is started again in %.0f s",
                    name,
                    _AGAIN_SECONDS,
                )
            await asyncio.sleep(_AGAIN_SECONDS)

    async def close(self) -> None:
        """Cancel every task."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
