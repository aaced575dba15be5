"""Single-flight: identical work that is in flight at the same time is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Shared(Generic[T]):
    task: asyncio.Task[T]
    waiters: int = 0


@dataclass(frozen=True, slots=True)
class Flight(Generic[T]):
    """A task, and whether another caller had started it. Await it by `asyncio.shield`."""

    task: asyncio.Task[T]
    shared: bool


class SingleFlight(Generic[T]):
    """Runs one task per key; callers that join a key meanwhile wait for the same task.

    The task is cancelled once no caller waits for it any more.
    """

    def __init__(self) -> None:
        self._flights: dict[str, _Shared[T]] = {}

    @contextmanager
    def join(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> Iterator[Flight[T]]:
        """The task of a key; `work` starts it if there is none."""
        flight = self._flights.get(key)
        joined = flight is not None
        if flight is None:
            flight = _Shared(asyncio.create_task(work()))
            self._flights[key] = flight
            flight.task.add_done_callback(partial(self._land, key, flight))
        flight.waiters += 1
        try:
            yield Flight(flight.task, joined)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._land(key, flight)  # a task that is being cancelled cannot be joined
                flight.task.cancel()

    def _land(self, key: str, flight: _Shared[T], _: asyncio.Task[T] | None = None) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
