"""What the tasks of one call deliver to its stream: results, and chunks that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import capo_wire as wire
from capo_client import errors

PositionedResult = tuple[int, wire.Credited | wire.Failed]


@dataclass(frozen=True, slots=True)
class _GivenUp:
    """Rollouts that were not credited, and why; no error if they could not even be sent."""

    error: errors.UnavailableError | errors.DeadlineExceededError | None
    failed: Sequence[PositionedResult]


class Arrivals:
    """A queue from the tasks of a call, one for each of `tasks` chunks, to its reader.

    Failures are held back to the end: if anything was delivered they are results like others, else
    the first one is raised.
    """

    def __init__(self, tasks: int) -> None:
        self._running = tasks
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[PositionedResult | _GivenUp | BaseException | None]
        self._queue = asyncio.Queue()
        self._given_up: list[_GivenUp] = []
        self._has_delivered = False

    def put(self, item: PositionedResult) -> None:
        """A result."""
        self._queue.put_nowait(item)

    def give_up(
        self,
        failed: Sequence[PositionedResult],
        error: errors.UnavailableError | errors.DeadlineExceededError | None = None,
    ) -> None:
        """Rollouts of a chunk that cannot be credited."""
        self._queue.put_nowait(_GivenUp(error, failed))

    def fail(self, error: BaseException) -> None:
        """An error that ends the call."""
        self._queue.put_nowait(error)

    def task_done(self) -> None:
        """A task has ended, with or without success."""
        self._queue.put_nowait(None)

    async def next(self) -> PositionedResult | None:
        """The next result; None once all tasks have ended.

        Raises:
            RuntimeError: called on another event loop.
        """
        while self._running:
            if asyncio.get_running_loop() is not self._loop:
                raise RuntimeError(
                    "a stream can only be read on the event loop on which it was started"
                )
            match await self._queue.get():
                case None:
                    self._running -= 1
                case _GivenUp() as chunk:
                    self._given_up.append(chunk)
                case BaseException() as error:
                    raise error
                case item:
                    self._has_delivered = True
                    return item
        return None

    def failures(self) -> list[PositionedResult]:
        """Failed results of all chunks that failed.

        Raises:
            UnavailableError, DeadlineExceededError: nothing was delivered.
        """
        for chunk in self._given_up:
            if chunk.error is not None and not self._has_delivered:
                raise chunk.error
        return [item for chunk in self._given_up for item in chunk.failed]
