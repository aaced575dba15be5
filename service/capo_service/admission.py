"""Who is let in, and whose turn it is: a bounded queue, fair between requests, that can drain.

A request is admitted whole or refused whole; nothing admitted is dropped. Admitted rollouts take
turns by request, so that a batch of a thousand does not make a single rollout wait for all of it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

_SMOOTHING = 0.1  # weight of the newest rollout in the mean time of one


class QueueFullError(Exception):
    """No room for the request now. `retry_after`: whole seconds until there should be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; room is expected in {retry_after} s")
        self.retry_after = retry_after


class DrainingError(Exception):
    """The service is stopping and takes no new work."""


class Admission:
    """Bounds accepted rollouts to `max_queued`, and those being judged to `max_running`."""

    def __init__(self, max_queued: int, max_running: int) -> None:
        self.max_queued = max_queued
        self.max_running = max_running
        self.accepted = 0
        self.running = 0
        self.draining = False
        self._seconds = 1.0  # mean time that one rollout holds its place
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()

    def expected_wait(self, rollouts: int) -> int:
        """Whole seconds, at least 1, until so many of the accepted rollouts are answered."""
        return max(1, math.ceil(self._seconds * rollouts / self.max_running))

    @contextmanager
    def admit(self, rollouts: int) -> Iterator[None]:
        """Hold room for a request of so many rollouts.

        Raises:
            DrainingError: the service is stopping.
            QueueFullError: there is no room now.
        """
        if self.draining:
            raise DrainingError
        excess = self.accepted + rollouts - self.max_queued
        if excess > 0:
            raise QueueFullError(self.expected_wait(excess))
        self.accepted += rollouts
        self._idle.clear()
        try:
            yield
        finally:
            self.accepted -= rollouts
            if not self.accepted:
                self._idle.set()

    @asynccontextmanager
    async def turn(self, request: str) -> AsyncIterator[None]:
        """Wait for, and hold, one of the `max_running` places, in the name of a request."""
        if self.running < self.max_running and not self._queues:
            self.running += 1
        else:
            await self._wait(request)  # the place is handed over by whoever leaves it
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds += _SMOOTHING * (time.monotonic() - started - self._seconds)
            self._pass_on()

    async def _wait(self, request: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(request, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._pass_on()  # the place came together with the cancellation
            else:
                self._forget(request, future)
            raise

    def _forget(self, request: str, future: asyncio.Future[None]) -> None:
        queue = self._queues.get(request)
        if queue is not None:
            queue.remove(future)
            if not queue:
                del self._queues[request]

    def _pass_on(self) -> None:
        if not self._queues:
            self.running -= 1
            return
        request, queue = next(iter(self._queues.items()))
        queue.popleft().set_result(None)
        if queue:
            self._queues.move_to_end(request)
        else:
            del self._queues[request]

    async def drain(self, seconds: float) -> bool:
        """Take no new work and wait for the accepted; whether it all ended in time."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True
