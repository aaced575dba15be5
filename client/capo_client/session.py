"""Submit and collect: rollouts go out as they finish, results come in as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from capo_client import errors
from capo_client._request_state import Answer, Position, failed
from capo_client.encoding import RolloutLike
from capo_client.results import CreditBatch

if TYPE_CHECKING:
    from capo_client.async_client import AsyncCreditClient


class CreditSession:
    """Rollouts of one training step, say, on their way; made by `AsyncCreditClient.session`.

    async with client.session(voting={"n": 4}) as session:
        for rollouts in finished_groups():
            session.submit(rollouts)
        batch = await session.collect()

    What cannot be credited is a `Failed` in its place; nothing is raised for it. On leaving, what
    is still under way is taken back. A session belongs to the event loop that it was made on.
    """

    def __init__(self, client: AsyncCreditClient, deadline: float, options: dict[str, Any]) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + deadline
        self._options = options
        self._results: dict[Position, Answer] = {}
        self._submitted = 0
        self._yielded = 0
        self._arrived: asyncio.Queue[Position | Exception] = asyncio.Queue()
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
        """Take back what is still under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def submit(self, rollouts: Sequence[RolloutLike]) -> range:
        """Send rollouts at once, without waiting; their positions among all of the session.

        Rollouts that belong to one question are best submitted together, a few at a time. Do not
        change them, nor the arrays in them, before their results are there.

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
            raise RuntimeError("a session can be used on the event loop that made it only")

    async def _send(self, first: int, rollouts: list[RolloutLike]) -> None:
        seconds = max(self._until - self._loop.time(), 0.001)
        left = set(range(len(rollouts)))
        stream = self._client.credit_stream(rollouts, deadline=seconds, **self._options)
        try:
            async with aclosing(stream):
                async for position, result in stream:
                    left.remove(position)
                    self._take(first + position, result)
        except errors.CapoError as error:
            for position in sorted(left):
                self._take(first + position, failed(rollouts[position], position, error))
        except Exception as error:  # a closed client, say: `results` raises it
            self._arrived.put_nowait(error)

    def _take(self, position: Position, result: Answer) -> None:
        self._results[position] = result
        self._arrived.put_nowait(position)

    async def results(self) -> AsyncGenerator[tuple[Position, Answer], None]:
        """(position, result) of everything submitted so far, as each is credited.

        Submit more meanwhile, and it goes on until that is credited too.

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
