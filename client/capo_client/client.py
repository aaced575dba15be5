"""`CreditClient` and `AsyncCreditClient`: one shape, two ways of waiting.

Both send a batch in chunks with bounded concurrency, take results as they finish, and send again
whatever met a 429, a 503 or a lost connection, until a deadline that holds for the whole call.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from types import TracebackType
from typing import Any, Self

import httpx

from capo_client import errors, wire
from capo_client.base import BETWEEN_PROBES, HEADERS, ClientBase, GivenUp, M, Progress, read, settle
from capo_client.chunk import Answer, Chunk, Position, RolloutLike
from capo_client.results import CreditBatch


class CreditClient(ClientBase):
    """Synchronous client; safe to use from several threads. See `ClientBase` for its arguments.

    `transport` replaces the network in tests.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(url, **settings)
        self._http = httpx.Client(transport=transport, **self._settings)

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
        """Close the connections."""
        self._http.close()

    def credit(
        self,
        rollouts: Sequence[RolloutLike],
        *,
        deadline: float = 600.0,
        progress: Progress | None = None,
        **options: Any,
    ) -> CreditBatch:
        """Credit a batch.

        Args:
            rollouts: `Rollout` objects, or mappings of the same form (which only the service
                checks: a bad one then fails alone).
            deadline: seconds for the whole call, all attempts included.
            progress: called with (done, all) after each result.
            options: `voting`, `reward`, `segment`, `show_reference`, `include`, as in `wire`.

        Returns:
            Results in the order of `rollouts`. What could not be credited is a `Failed` in its
            place.

        Raises:
            ProblemResponseError: the service refuses the request itself.
            UnavailableError, DeadlineExceededError: nothing at all was credited.
        """
        results: dict[Position, Answer] = {}
        with closing(self._stream(rollouts, deadline, options)) as stream:
            for position, result in stream:
                results[position] = result
                if progress:
                    progress(len(results), len(rollouts))
        return CreditBatch([results[position] for position in range(len(rollouts))])

    def credit_stream(
        self, rollouts: Sequence[RolloutLike], *, deadline: float = 600.0, **options: Any
    ) -> Generator[tuple[int, wire.Credited | wire.Failed], None, None]:
        """As `credit`, but yields (position, result) as soon as each rollout is credited."""
        return self._stream(rollouts, deadline, options)

    def _stream(
        self, rollouts: Sequence[RolloutLike], deadline: float, options: dict[str, Any]
    ) -> Generator[tuple[Position, Answer], None, None]:
        chunks = self._chunks(rollouts, deadline, options)
        # Results, exceptions, and None for each chunk that has ended.
        arrived: queue.SimpleQueue[tuple[Position, Answer] | BaseException | GivenUp | None]
        arrived = queue.SimpleQueue()
        stopped = threading.Event()

        def work(chunk: Chunk) -> None:
            try:
                self._send(chunk, arrived.put, stopped)
            except (errors.UnavailableError, errors.DeadlineExceededError) as error:
                arrived.put(GivenUp(error, chunk.give_up(error)))
            except BaseException as error:
                arrived.put(error)
            finally:
                arrived.put(None)

        given_up: list[GivenUp] = []
        delivered = False
        pool = ThreadPoolExecutor(max_workers=self.concurrency, thread_name_prefix="capo")
        try:
            for chunk in chunks:
                pool.submit(work, chunk)
            ended = 0
            while ended < len(chunks):
                match arrived.get():
                    case None:
                        ended += 1
                    case GivenUp() as lost:
                        given_up.append(lost)
                    case BaseException() as error:
                        raise error
                    case item:
                        delivered = True
                        yield item
            yield from settle(given_up, delivered)
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _send(
        self,
        chunk: Chunk,
        emit: Callable[[tuple[Position, Answer]], None],
        stopped: threading.Event,
    ) -> None:
        while not chunk.done:
            request = self._http.build_request(
                "POST", "/credit", content=chunk.body(), headers=HEADERS, timeout=chunk.timeout()
            )
            try:
                with closing(self._http.send(request, stream=True)) as response:
                    if response.status_code != 200:
                        response.read()
                        chunk.refused(response)
                    else:
                        for line in response.iter_lines():
                            if stopped.is_set():
                                return
                            if (item := chunk.take(line)) is not None:
                                emit(item)
            except httpx.TransportError as error:
                chunk.lost(error)
            if not chunk.done and stopped.wait(chunk.pause()):
                return

    def info(self) -> wire.Info:
        """The judge, the tokenizers and the limits of the service."""
        return self._get("/info", wire.Info)

    def is_ready(self) -> bool:
        """Whether a request would be served now."""
        try:
            return self._http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self, seconds: float = 600.0) -> None:
        """Wait for the judge to be loaded.

        Raises:
            UnavailableError: it is not within `seconds`.
        """
        until = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() >= until:
                raise errors.UnavailableError(f"{self.url} is not ready after {seconds:g} s")
            time.sleep(BETWEEN_PROBES)

    def _get(self, path: str, model: type[M]) -> M:
        try:
            return read(self._http.get(path), model)
        except httpx.TransportError as error:
            raise errors.UnavailableError(f"{self.url} cannot be reached: {error}") from error


class AsyncCreditClient(ClientBase):
    """Asynchronous client. See `CreditClient`; `transport` replaces the network in tests."""

    def __init__(
        self,
        url: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(url, **settings)
        self._http = httpx.AsyncClient(transport=transport, **self._settings)

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
        """Close the connections."""
        await self._http.aclose()

    async def credit(
        self,
        rollouts: Sequence[RolloutLike],
        *,
        deadline: float = 600.0,
        progress: Progress | None = None,
        **options: Any,
    ) -> CreditBatch:
        """As `CreditClient.credit`."""
        results: dict[Position, Answer] = {}
        async with aclosing(self._stream(rollouts, deadline, options)) as stream:
            async for position, result in stream:
                results[position] = result
                if progress:
                    progress(len(results), len(rollouts))
        return CreditBatch([results[position] for position in range(len(rollouts))])

    def credit_stream(
        self, rollouts: Sequence[RolloutLike], *, deadline: float = 600.0, **options: Any
    ) -> AsyncGenerator[tuple[int, wire.Credited | wire.Failed], None]:
        """As `CreditClient.credit_stream`."""
        return self._stream(rollouts, deadline, options)

    async def _stream(
        self, rollouts: Sequence[RolloutLike], deadline: float, options: dict[str, Any]
    ) -> AsyncGenerator[tuple[Position, Answer], None]:
        chunks = self._chunks(rollouts, deadline, options)
        arrived: asyncio.Queue[tuple[Position, Answer] | BaseException | GivenUp | None]
        arrived = asyncio.Queue()
        turns = asyncio.Semaphore(self.concurrency)

        async def work(chunk: Chunk) -> None:
            try:
                async with turns:
                    await self._send(chunk, arrived.put_nowait)
            except (errors.UnavailableError, errors.DeadlineExceededError) as error:
                arrived.put_nowait(GivenUp(error, chunk.give_up(error)))
            except Exception as error:
                arrived.put_nowait(error)
            finally:
                arrived.put_nowait(None)

        given_up: list[GivenUp] = []
        delivered = False
        tasks = [asyncio.create_task(work(chunk)) for chunk in chunks]
        try:
            ended = 0
            while ended < len(chunks):
                match await arrived.get():
                    case None:
                        ended += 1
                    case GivenUp() as lost:
                        given_up.append(lost)
                    case BaseException() as error:
                        raise error
                    case item:
                        delivered = True
                        yield item
            for item in settle(given_up, delivered):
                yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, chunk: Chunk, emit: Callable[[tuple[Position, Answer]], None]) -> None:
        while not chunk.done:
            request = self._http.build_request(
                "POST", "/credit", content=chunk.body(), headers=HEADERS, timeout=chunk.timeout()
            )
            try:
                async with aclosing(await self._http.send(request, stream=True)) as response:
                    if response.status_code != 200:
                        await response.aread()
                        chunk.refused(response)
                    else:
                        async for line in response.aiter_lines():
                            if (item := chunk.take(line)) is not None:
                                emit(item)
            except httpx.TransportError as error:
                chunk.lost(error)
            if not chunk.done:
                await asyncio.sleep(chunk.pause())

    async def info(self) -> wire.Info:
        """The judge, the tokenizers and the limits of the service."""
        return await self._get("/info", wire.Info)

    async def is_ready(self) -> bool:
        """Whether a request would be served now."""
        try:
            return (await self._http.get("/health/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def wait_until_ready(self, seconds: float = 600.0) -> None:
        """As `CreditClient.wait_until_ready`."""
        until = time.monotonic() + seconds
        while not await self.is_ready():
            if time.monotonic() >= until:
                raise errors.UnavailableError(f"{self.url} is not ready after {seconds:g} s")
            await asyncio.sleep(BETWEEN_PROBES)

    async def _get(self, path: str, model: type[M]) -> M:
        try:
            return read(await self._http.get(path), model)
        except httpx.TransportError as error:
            raise errors.UnavailableError(f"{self.url} cannot be reached: {error}") from error
