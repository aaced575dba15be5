"""`AsyncCreditClient`: sends a batch in chunks, and again what met a 429, a 503 or a lost line."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from capo_client import errors, wire
from capo_client.balance import Balancer, Replica
from capo_client.chunk import Answer, Chunk, Position, RolloutLike, make_options, split
from capo_client.results import CreditBatch
from capo_client.retry import RetryPolicy
from capo_client.session import CreditSession
from capo_client.transport import read, tls, trace_headers

Progress = Callable[[int, int], None]

DEFAULT_URL = "http://127.0.0.1:8000"
_HEADERS = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
_PROBE_SECONDS = 10.0
_BETWEEN_PROBES = 0.5

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class _GivenUp:
    """A chunk that could not be credited to its end, and why."""

    error: errors.UnavailableError | errors.DeadlineExceededError
    failed: Sequence[tuple[Position, Answer]]


def _settle(given_up: Sequence[_GivenUp], delivered: bool) -> list[tuple[Position, Answer]]:
    """Failed results of what was given up; raises its error where nothing else was delivered."""
    if given_up and not delivered:
        raise given_up[0].error
    return [item for chunk in given_up for item in chunk.failed]


class AsyncCreditClient:
    """Asynchronous client.

    Args:
        url: the service, or several replicas of it, as a list or with commas between; by default
            CAPO_URL, or this machine's port 8000. Rollouts of a question go to the same replica
            while it is well and no busier than others; see `balance`.
        api_key: sent as Bearer; by default CAPO_API_KEY.
        ca: PEM file of the authorities to trust in place of the public ones; by default
            CAPO_CA_FILE.
        cert: PEM files (certificate, private key) that this client shows to a service with
            mutual TLS; by default CAPO_CERT_FILE and CAPO_KEY_FILE.
        batch_size: rollouts in one request. Keep rollouts of one question together: the judge
            reads their common beginning once.
        concurrency: requests at once.
        retry: when to try again.
        transport: replaces the network in tests.
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
        if batch_size < 1 or concurrency < 1:
            raise ValueError("batch_size and concurrency must be at least 1")
        named = url or os.environ.get("CAPO_URL") or DEFAULT_URL
        urls = named.split(",") if isinstance(named, str) else named
        self._balancer = Balancer([each.strip().rstrip("/") for each in urls])
        self.url = ",".join(replica.url for replica in self._balancer.replicas)
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.retry = retry or RetryPolicy()
        key = api_key or os.environ.get("CAPO_API_KEY")
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=concurrency + 2),
            timeout=_PROBE_SECONDS,
            verify=tls(ca, cert),
            transport=transport,
        )

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
        stream = self.credit_stream(rollouts, deadline=deadline, **options)
        async with aclosing(stream):
            async for position, result in stream:
                results[position] = result
                if progress:
                    progress(len(results), len(rollouts))
        return CreditBatch([results[position] for position in range(len(rollouts))])

    async def credit_stream(
        self, rollouts: Sequence[RolloutLike], *, deadline: float = 600.0, **options: Any
    ) -> AsyncGenerator[tuple[int, wire.Credited | wire.Failed], None]:
        """As `credit`, but yields (position, result) as soon as each rollout is credited."""
        until = time.monotonic() + deadline
        chunks = split(rollouts, make_options(**options), self.batch_size, self.retry, until)
        arrived: asyncio.Queue[tuple[Position, Answer] | BaseException | _GivenUp | None]
        arrived = asyncio.Queue()
        turns = asyncio.Semaphore(self.concurrency)

        async def work(chunk: Chunk) -> None:
            try:
                async with turns:
                    await self._send(chunk, arrived.put_nowait)
            except (errors.UnavailableError, errors.DeadlineExceededError) as error:
                arrived.put_nowait(_GivenUp(error, chunk.give_up(error)))
            except Exception as error:
                arrived.put_nowait(error)
            finally:
                arrived.put_nowait(None)

        given_up: list[_GivenUp] = []
        delivered = False
        tasks = [asyncio.create_task(work(chunk)) for chunk in chunks]
        try:
            ended = 0
            while ended < len(chunks):
                match await arrived.get():
                    case None:
                        ended += 1
                    case _GivenUp() as lost:
                        given_up.append(lost)
                    case BaseException() as error:
                        raise error
                    case item:
                        delivered = True
                        yield item
            for item in _settle(given_up, delivered):
                yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def session(self, *, deadline: float = 600.0, **options: Any) -> CreditSession:
        """Submit rollouts as they finish, and collect their results.

        Args:
            deadline: seconds from now for everything submitted.
            options: as of `credit`.

        Raises:
            InvalidRequestError: an option is unknown or has a wrong value.
        """
        make_options(**options)
        return CreditSession(self, deadline, options)

    async def _send(self, chunk: Chunk, emit: Callable[[tuple[Position, Answer]], None]) -> None:
        tried = 0  # replicas, in this attempt
        while not chunk.done:
            replica = self._balancer.pick(chunk.question, chunk.tokens)
            with self._balancer.sending(replica, chunk.tokens):
                await self._send_to(replica, chunk, emit)
            if chunk.done:
                self._balancer.answered(replica)
                return
            self._balancer.failed(replica, chunk.retry_after)
            tried += 1
            if tried < len(self._balancer.replicas) and self._balancer.any_usable:
                chunk.move_on()
            else:
                tried = 0
                await asyncio.sleep(chunk.pause())

    async def _send_to(
        self, replica: Replica, chunk: Chunk, emit: Callable[[tuple[Position, Answer]], None]
    ) -> None:
        request = self._http.build_request(
            "POST", f"{replica.url}/credit", content=chunk.body(),
            headers=_HEADERS | trace_headers(), timeout=chunk.timeout(),
        )  # fmt: skip
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

    async def info(self) -> wire.Info:
        """The judge, the tokenizers and the limits of the service."""
        return await self._get("/info", wire.Info)

    async def is_ready(self) -> bool:
        """Whether a request would be served now, by any replica."""
        for replica in self._balancer.replicas:
            with suppress(httpx.TransportError):
                if (await self._http.get(f"{replica.url}/health/ready")).status_code == 200:
                    return True
        return False

    async def wait_until_ready(self, seconds: float = 600.0) -> None:
        """Wait for the judge to be loaded.

        Raises:
            UnavailableError: it is not within `seconds`.
        """
        until = time.monotonic() + seconds
        while not await self.is_ready():
            if time.monotonic() >= until:
                raise errors.UnavailableError(f"{self.url} is not ready after {seconds:g} s")
            await asyncio.sleep(_BETWEEN_PROBES)

    async def _get(self, path: str, model: type[M]) -> M:
        """The answer of the first replica that can be reached."""
        lost: httpx.TransportError | None = None
        for replica in self._balancer.replicas:
            try:
                return read(await self._http.get(replica.url + path), model)
            except httpx.TransportError as error:
                lost = error
        raise errors.UnavailableError(f"{self.url} cannot be reached: {lost}") from lost
