"""Keeps an engine running: sees that it died or hangs, ends what is left of it, starts it again.

An engine is lost when its process is gone, or when it answers no ping: for a few seconds while it
cannot be working either (one of its processes is stopped, or all use no processor time), or for
`hang_seconds` whatever it does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from capo_service.engine.base import EngineDeadError

log = logging.getLogger(__name__)

_PERIOD = 0.5  # seconds between looks
_STILL_SECONDS = 3.0  # without an answer and without work
_QUICK_SECONDS = 30.0  # an engine that is lost sooner than this after its start did not recover
_MOST_FAILURES = 3  # in a row, and the engine is given up
_PAUSE_SECONDS = 1.0  # before a second start in a row; doubled at each further one


class Runner(Protocol):
    """One engine, from its start to its end."""

    @property
    def failed(self) -> bool:
        """Whether it is known to be gone."""

    async def ping(self) -> None:
        """Return when the engine itself has answered."""

    def processor_seconds(self) -> float:
        """Processor time that its processes have used; any number that grows with it.

        Where one of them is stopped, the others only wait for it: then it is 0.
        """

    async def end(self, lost: bool) -> None:
        """End its processes, by force where it is lost; who waits gets an EngineDeadError."""


R = TypeVar("R", bound=Runner)


class Supervisor(Generic[R]):
    """Holds the engine that runs now.

    Args:
        load: starts an engine and returns when it is ready.
        hang_seconds: without an answer, after which an engine counts as lost although it works.
        clock: seconds.
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
        self._keeper: asyncio.Task[None] | None = None
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
        """Seconds until an engine that is being started should be ready: as long as last time."""
        if self._runner is not None:
            return 0.0 if not self._runner.failed else self._load_seconds
        return max(self._load_seconds - (self._clock() - self._began), 0.0)

    async def start(self) -> None:
        """Start the engine, and keep it running from then on."""
        await self._start()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End the engine. May be called more than once."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
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

    async def _keep(self) -> None:
        failures = 0
        while True:
            if self._runner is not None:
                try:
                    why = await self._until_lost(self._runner)
                except Exception:
                    # One that cannot be watched could hang unseen.
                    log.exception("watching the engine failed")
                    why = "it can no longer be watched"
                log.error("the engine is lost: %s", why)
                self._began = self._clock()
                quick = self._clock() - self._ready_at < _QUICK_SECONDS
                failures = failures + 1 if quick else 1
            if failures >= _MOST_FAILURES:
                log.error("the engine was lost %d times in a row; it is given up", failures)
                self.dead = True
                try:
                    await self._end(lost=True)
                except Exception:
                    log.exception("the processes of the lost engine could not be stopped")
                return
            try:
                await self._end(lost=True)
                if failures > 1:
                    await asyncio.sleep(_PAUSE_SECONDS * 2.0 ** (failures - 2))
                self.restarts += 1
                await self._start()
                log.warning("the engine is back after %.0f s", self._load_seconds)
            except Exception:
                failures += 1
                log.exception("the engine cannot be started again")

    async def _until_lost(self, runner: R) -> str:
        """Return when an engine is lost, and say why.

        Only time that this process has seen pass counts: if it was stopped itself, or its machine
        was, the engine is not to blame.
        """
        silent = still = 0.0
        used, looked = runner.processor_seconds(), self._clock()
        ping = asyncio.create_task(runner.ping())
        try:
            while not runner.failed:
                await asyncio.wait({ping}, timeout=_PERIOD)
                if ping.done():
                    error = ping.exception()
                    if error is None:
                        silent = still = 0.0
                    elif not isinstance(error, EngineDeadError):  # of that, `failed` tells
                        log.warning("the engine answered a ping with an error: %r", error)
                    await asyncio.sleep(_PERIOD)
                    ping = asyncio.create_task(runner.ping())
                seen = min(self._clock() - looked, 2 * _PERIOD)
                spent, looked = runner.processor_seconds(), self._clock()
                silent += seen
                still = 0.0 if spent > used else still + seen
                used = spent
                if still >= _STILL_SECONDS:
                    return f"it has neither answered nor worked for {still:.1f} s"
                if silent >= self._hang_seconds:
                    return f"it has not answered for {silent:.0f} s"
            return "its process is gone"
        finally:
            ping.cancel()
            await asyncio.gather(ping, return_exceptions=True)
