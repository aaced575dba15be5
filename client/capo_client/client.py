"""`CreditClient`: the asynchronous client for code that is not.

It runs `AsyncCreditClient` on an event loop in a thread of its own, so both are one implementation,
and a caller that stops waiting (Ctrl-C, a closed stream) takes its requests back at once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Generator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

from capo_client import wire
from capo_client.async_client import AsyncCreditClient, Progress
from capo_client.chunk import Answer, Position, RolloutLike
from capo_client.results import CreditBatch

T = TypeVar("T")


class CreditClient:
    """Synchronous client; safe to use from several threads.

    Takes the arguments of `AsyncCreditClient`.
    """

    def __init__(self, url: str | Sequence[str] | None = None, **settings: Any) -> None:
        self._client = AsyncCreditClient(url, **settings)
        self._loop = asyncio.new_event_loop()
        # A daemon: a program that forgets to close its client still ends.
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="capo-client", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The service."""
        return self._client.url

    @property
    def batch_size(self) -> int:
        """Rollouts in one request."""
        return self._client.batch_size

    @property
    def concurrency(self) -> int:
        """Requests at once."""
        return self._client.concurrency

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. May be called more than once."""
        if self._loop.is_closed():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._client.aclose()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # where the wait was interrupted

    def credit(
        self,
        rollouts: Sequence[RolloutLike],
        *,
        deadline: float = 600.0,
        progress: Progress | None = None,
        **options: Any,
    ) -> CreditBatch:
        """As `AsyncCreditClient.credit`; `progress` is called in the caller's thread."""
        results: dict[Position, Answer] = {}
        with closing(self.credit_stream(rollouts, deadline=deadline, **options)) as stream:
            for position, result in stream:
                results[position] = result
                if progress:
                    progress(len(results), len(rollouts))
        return CreditBatch([results[position] for position in range(len(rollouts))])

    def credit_stream(
        self, rollouts: Sequence[RolloutLike], *, deadline: float = 600.0, **options: Any
    ) -> Generator[tuple[int, wire.Credited | wire.Failed], None, None]:
        """As `credit`, but yields (position, result) as soon as each rollout is credited."""
        arrived: queue.SimpleQueue[tuple[Position, Answer] | BaseException | None]
        arrived = queue.SimpleQueue()

        async def pump() -> None:
            try:
                stream = self._client.credit_stream(rollouts, deadline=deadline, **options)
                async for item in stream:
                    arrived.put(item)
            except Exception as error:
                arrived.put(error)
            finally:
                arrived.put(None)

        future = asyncio.run_coroutine_threadsafe(pump(), self._loop)
        try:
            while (item := arrived.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            future.cancel()

    def info(self) -> wire.Info:
        """The judge, the tokenizers and the limits of the service."""
        return self._call(self._client.info())

    def is_ready(self) -> bool:
        """Whether a request would be served now."""
        return self._call(self._client.is_ready())

    def wait_until_ready(self, seconds: float = 600.0) -> None:
        """As `AsyncCreditClient.wait_until_ready`."""
        self._call(self._client.wait_until_ready(seconds))
