"""Keeps an engine running: detects that it died or hangs, ends its processes, restarts it.

An engine is lost when its process is gone, or when it answers no heartbeat: for 3 s with zero CPU
use (or with a stopped process), or for `hang_seconds` regardless of CPU use.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from capo_service.engine.base import EngineDeadError

log = logging.getLogger(__name__)

_PERIOD = 0.5  # seconds between checks
_IDLE_SECONDS = 3.0  # without a heartbeat and without CPU use
_QUICK_SECONDS = 30.0  # an engine that is lost within this time of its start did not recover
_MAX_FAILURES = 3  # in a row; then the engine is not started again
_PAUSE_SECONDS = 1.0  # before a second start in a row; doubled at each further one


class Runner(Protocol):
    """One run of an engine."""

    @property
    def failed(self) -> bool:
        """Whether it is known to be gone."""

    async def ping(self) -> None:
        """The heartbeat: returns when the engine itself has answered."""

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used, or any number that grows with it.

        0 while one of them is stopped: the others only wait for it.
        """

    async def end(self, lost: bool) -> None:
        """End its processes, by SIGKILL if it is lost; pending calls get an EngineDeadError."""


R = TypeVar("R", bound=Runner)


class Supervisor(Generic[R]):
    """Holds the engine that currently runs.

    Args:
        load: starts an engine and returns when it is ready.
        hang_seconds: seconds without a heartbeat after which an engine is lost although it uses
            CPU time.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[R]],
        hang_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._hang_seconds = hang_seconds
        self._clock = clock
        self._runner: R | None = None
        self._task: asyncio.Task[None] | None = None
        self._load_seconds = 0.0  # of the last start
        self._began = self._ready_at = clock()
        self.restarts = 0
        self.dead = False

    @property
    def runner(self) -> R | None:
        """The engine, if it runs."""
        if self._runner is None or self._runner.failed:
            return None
        return self._runner

    @property
    def ready_in(self) -> float:
        """Seconds until the engine is expected to be ready, if loading takes as long as before."""
        if self._runner is not None:
            return 0.0 if not self._runner.failed else self._load_seconds
        return max(self._load_seconds - (self._clock() - self._began), 0.0)

    async def start(self) -> None:
        """Start the engine, and keep it running from then on."""
        await self._start()
        self._task = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        """End the engine. May be called more than once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._end(lost=False)

    async def _start(self) -> None:
        self._began = self._clock()
        self._runner = await self._load()
        self._ready_at = self._clock()
        self._load_seconds = self._ready_at - self._began

    async def _end(self, lost: bool) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.end(lost)

    async def _supervise(self) -> None:
        failures = 0
        while True:
            if self._runner is not None:
                reason = await self._loss_of(self._runner)
                log.error("the engine is lost: %s", reason)
                self._began = self._clock()
                quick = self._clock() - self._ready_at < _QUICK_SECONDS
                failures = failures + 1 if quick else 1
            if failures >= _MAX_FAILURES:
                log.error("the engine was lost %d times in a row; not restarting it", failures)
                await self._give_up()
                return
            try:
                await self._end(lost=True)
                if failures > 1:
                    await asyncio.sleep(_PAUSE_SECONDS * 2.0 ** (failures - 2))
                self.restarts += 1
                await self._start()
                log.warning("the engine is ready again after %.0f s", self._load_seconds)
            except Exception:
                failures += 1
                log.exception("the engine cannot be restarted")

    async def _give_up(self) -> None:
        self.dead = True
        try:
            await self._end(lost=True)
        except Exception:
            log.exception("the processes of the lost engine could not be ended")

    async def _loss_of(self, runner: R) -> str:
        """Return when an engine is lost, with the reason."""
        try:
            return await self._until_lost(runner)
        except Exception:
            log.exception("supervising the engine failed")
            return "it can no longer be supervised"  # and could hang unnoticed

    async def _until_lost(self, runner: R) -> str:
        # Time in which this process or its machine was suspended does not count: the engine is not
        # the cause of it.
        silent = idle = 0.0
        used, checked = runner.cpu_seconds(), self._clock()
        ping = asyncio.create_task(runner.ping())
        try:
            while not runner.failed:
                await asyncio.wait({ping}, timeout=_PERIOD)
                if ping.done():
                    error = ping.exception()
                    if error is None:
                        silent = idle = 0.0
                    elif not isinstance(error, EngineDeadError):  # which also sets `failed`
                        log.warning("the engine answered a heartbeat with an error: %r", error)
                    await asyncio.sleep(_PERIOD)
                    ping = asyncio.create_task(runner.ping())
                elapsed = min(self._clock() - checked, 2 * _PERIOD)
                now_used, checked = runner.cpu_seconds(), self._clock()
                silent += elapsed
                idle = 0.0 if now_used > used else idle + elapsed
                used = now_used
                if idle >= _IDLE_SECONDS:
                    return f"no heartbeat for {idle:.1f} s, with zero CPU use"
                if silent >= self._hang_seconds:
                    return f"no heartbeat for {silent:.0f} s"
            return "its process is gone"
        finally:
            ping.cancel()
            await asyncio.gather(ping, return_exceptions=True)
