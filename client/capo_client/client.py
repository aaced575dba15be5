"""`CreditClient`: the client for synchronous code.

It runs `AsyncCreditClient` on an event loop in another thread: one implementation for both, and a
caller that stops waiting (Ctrl-C, a closed stream) cancels its requests at once.
"""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import closing
from copy import copy
from types import TracebackType
from typing import Self, Unpack

import httpx

import capo_wire as wire
from capo_client._background_loop import BackgroundWork
from capo_client._options import CreditOptionArgs
from capo_client.async_client import AsyncCreditClient, Progress
from capo_client.encoding import RolloutLike
from capo_client.results import CreditBatch
from capo_client.retry import RetryPolicy


class CreditClient:
    """Synchronous client; safe to use from several threads and from forked processes.

    Takes the arguments of `AsyncCreditClient`. All clients of a process share one thread. A client
    that is not closed is closed when it is garbage-collected.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        api_key: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        batch_size: int = 16,
        concurrency: int = 8,
        retry: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = AsyncCreditClient(
            url,
            api_key=api_key,
            ca=ca,
            cert=cert,
            batch_size=batch_size,
            concurrency=concurrency,
            retry=retry,
            transport=transport,
        )
        self._work = BackgroundWork()

    def __getstate__(self) -> AsyncCreditClient:
        return self._client

    def __setstate__(self, client: AsyncCreditClient) -> None:
        self._client = copy(client)  # copy.copy() passes the original's
        self._work = BackgroundWork()

    @property
    def url(self) -> str:
        """The service, or its replicas separated by commas."""
        return self._client.url

    @property
    def batch_size(self) -> int:
        """Rollouts per request."""
        return self._client.batch_size

    @property
    def concurrency(self) -> int:
        """Concurrent requests."""
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
        """Cancel what is in flight and close the connections. May be called more than once."""
        self._work.stop(self._client.aclose)

    def credit(
        self,
        rollouts: Sequence[RolloutLike],
        *,
        deadline: float | None = 600.0,
        progress: Progress | None = None,
        **options: Unpack[CreditOptionArgs],
    ) -> CreditBatch:
        """As `AsyncCreditClient.credit`; `progress` is called in the calling thread."""
        results: dict[int, wire.Result] = {}
        with closing(self.credit_stream(rollouts, deadline=deadline, **options)) as stream:
            for position, result in stream:
                results[position] = result
                if progress:
                    progress(len(results), len(rollouts))
        return CreditBatch([results[position] for position in range(len(rollouts))])

    def credit_stream(
        self,
        rollouts: Sequence[RolloutLike],
        *,
        deadline: float | None = 600.0,
        **options: Unpack[CreditOptionArgs],
    ) -> Generator[tuple[int, wire.Credited | wire.Failed], None, None]:
        """As `credit`, but yields (position, result) as soon as each rollout is credited."""
        return self._drain(self._client.credit_stream(rollouts, deadline=deadline, **options))

    def _drain(
        self, stream: AsyncGenerator[tuple[int, wire.Credited | wire.Failed], None]
    ) -> Generator[tuple[int, wire.Credited | wire.Failed], None, None]:
        arrived: queue.SimpleQueue[tuple[int, wire.Result] | BaseException | None]
        arrived = queue.SimpleQueue()
        pid = os.getpid()

        async def pump() -> None:
            try:
                async for item in stream:
                    arrived.put(item)
            except asyncio.CancelledError:
                arrived.put(RuntimeError("the client was closed"))
                raise
            except Exception as error:
                arrived.put(error)
            finally:
                arrived.put(None)

        future = self._work.start(pump())
        try:
            while True:
                if os.getpid() != pid:
                    raise RuntimeError(
                        "a stream can only be used in the process that opened it, not in a fork"
                    )
                if (item := arrived.get()) is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            if os.getpid() == pid:
                future.cancel()

    def info(self) -> wire.Info:
        """The judge, the tokenizers and the limits of the service."""
        return self._work.run(self._client.info())

    def is_ready(self) -> bool:
        """Whether a request would be served now."""
        return self._work.run(self._client.is_ready())

    def wait_until_ready(self, seconds: float = 600.0) -> None:
        """As `AsyncCreditClient.wait_until_ready`."""
        self._work.run(self._client.wait_until_ready(seconds))
