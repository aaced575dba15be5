"""Submit and collect: rollouts are sent while others are sampled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self

import capo_wire as wire
from capo_client import errors
from capo_client._request_state import failed
from capo_client.encoding import RolloutLike
from capo_client.results import CreditBatch

# (rollouts, seconds until the deadline) -> (position, result) of each, as it is credited.
CreditStream = Callable[
    [Sequence[RolloutLike], float], AsyncGenerator[tuple[int, wire.Credited | wire.Failed], None]
]


class CreditSession:
    """Rollouts in flight, such as those of one training step; see `AsyncCreditClient.session`.

    async with client.session(voting={"n": 4}) as session:
        for rollouts in finished_groups():
            session.submit(rollouts)
        batch = await session.collect()

    A rollout that cannot be credited is a `Failed`; nothing is raised for it. Leaving the block
    cancels what is still in flight. A session belongs to the event loop that it was made on.
    """

    def __init__(self, stream: CreditStream, deadline: float) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + deadline
        self._results: dict[int, wire.Credited | wire.Failed] = {}
        self._submitted = 0
        self._yielded = 0
        self._arrived: asyncio.Queue[int | Exception] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what is still in flight."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def submit(self, rollouts: Sequence[RolloutLike]) -> range:
        """Start sending rollouts, without waiting.

        Submit rollouts of one question together, a few at a time. Do not change them, or the
        arrays in them, before their results are there.

        Returns:
            Their positions in the session.

        Raises:
            RuntimeError: called on another event loop.
        """
        self._check_loop()
        first, self._submitted = self._submitted, self._submitted + len(rollouts)
        task = asyncio.create_task(self._send(first, list(rollouts)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return range(first, self._submitted)

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "a session can only be used on the event loop on which it was created"
            )

    async def _send(self, first: int, rollouts: list[RolloutLike]) -> None:
        seconds = max(self._until - self._loop.time(), 0.001)
        pending = set(range(len(rollouts)))
        stream = self._stream(rollouts, seconds)
        try:
            async with aclosing(stream):
                async for position, result in stream:
                    pending.remove(position)
                    self._take(first + position, result)
        except errors.CapoError as error:
            for position in sorted(pending):
                self._take(first + position, failed(rollouts[position], position, error))
        except Exception as error:  # as of a closed client; `results` raises it
            self._arrived.put_nowait(error)

    def _take(self, position: int, result: wire.Credited | wire.Failed) -> None:
        self._results[position] = result
        self._arrived.put_nowait(position)

    async def results(self) -> AsyncGenerator[tuple[int, wire.Credited | wire.Failed], None]:
        """Yield (position, result) of everything submitted, as each is credited.

        Rollouts submitted in the meantime are included.

        Raises:
            RuntimeError: called on another event loop, or the client was closed.
        """
        self._check_loop()
        while self._yielded < self._submitted:
            position = await self._arrived.get()
            if isinstance(position, Exception):
                raise position
            self._yielded += 1
            yield position, self._results[position]

    async def collect(self) -> CreditBatch:
        """Wait for everything submitted so far; results in the order of submission."""
        async with aclosing(self.results()) as stream:
            async for _ in stream:
                pass
        return CreditBatch([self._results[position] for position in range(self._submitted)])
