"""`AsyncCreditClient`: sends a batch in chunks, and again what met a 429, a 503 or a lost line."""

from __future__ import annotations

import asyncio
import math
import os
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from capo_client import errors, wire
from capo_client.addresses import parse_urls
from capo_client.balance import Replica
from capo_client.chunk import Answer, Chunk, Position, make_options, split, unreachable
from capo_client.connections import Connections, Local, Settings
from capo_client.encoding import RolloutLike
from capo_client.results import CreditBatch
from capo_client.retry import RetryPolicy, WaitLog
from capo_client.session import CreditSession
from capo_client.transport import Failure, explain, lines, read, request_timeout, trace_headers

Progress = Callable[[int, int], None]

DEFAULT_URL = "http://127.0.0.1:8000"
_HEADERS = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
_BETWEEN_PROBES = 0.5

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class _GivenUp:
    """Rollouts that were not credited, and why, unless they could not even be sent."""

    error: errors.UnavailableError | errors.DeadlineExceededError | None
    failed: Sequence[tuple[Position, Answer]]


def _settle(given_up: Sequence[_GivenUp], delivered: bool) -> list[tuple[Position, Answer]]:
    """Failed results of what was given up; raises its error where nothing else was delivered."""
    for chunk in given_up:
        if chunk.error is not None and not delivered:
            raise chunk.error
    return [item for chunk in given_up for item in chunk.failed]


class AsyncCreditClient:
    """Asynchronous client.

    It may be used on several event loops, one after the other or at once, and in forked
    processes: each has connections of its own. A copy, or what comes out of a pickle, has its
    settings, the API key among them, and opens connections of its own.

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
        concurrency: requests at once, of all calls and sessions on an event loop.
        retry: when to try again.
        transport: replaces the network in tests.

    Raises:
        ConfigurationError: the URL, the key, a file or a proxy of the environment cannot be used.
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
            raise errors.ConfigurationError("batch_size and concurrency must be at least 1")
        if cert is None and (file := os.environ.get("CAPO_CERT_FILE")):
            cert = file, os.environ.get("CAPO_KEY_FILE") or file
        self._settings = Settings(
            urls=tuple(parse_urls(url or os.environ.get("CAPO_URL") or DEFAULT_URL)),
            api_key=(api_key or os.environ.get("CAPO_API_KEY") or "").strip() or None,
            ca=ca or os.environ.get("CAPO_CA_FILE"),
            cert=cert,
            concurrency=concurrency,
            transport=transport,
        )
        self.batch_size = batch_size
        self.retry = retry or RetryPolicy()
        self._begin()

    def _begin(self) -> None:
        self._connections = Connections(self._settings)
        self._reached: set[str] = set()  # URLs that have answered
        self._log = WaitLog()
        # For clients that are not closed.
        weakref.finalize(self, self._connections.abandon).atexit = False

    def __getstate__(self) -> dict[str, Any]:
        if self._settings.transport is not None:
            raise TypeError(
                "a client with a transport of its own can be neither pickled nor copied"
            )
        return {
            "_settings": self._settings, "batch_size": self.batch_size, "retry": self.retry,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    def url(self) -> str:
        """The service, or its replicas with commas between."""
        return ",".join(self._settings.urls)

    @property
    def concurrency(self) -> int:
        """Requests at once."""
        return self._settings.concurrency

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
        """Close the connections. May be called more than once."""
        await self._connections.aclose()

    async def credit(
        self,
        rollouts: Sequence[RolloutLike],
        *,
        deadline: float | None = 600.0,
        progress: Progress | None = None,
        **options: Any,
    ) -> CreditBatch:
        """Credit a batch.

        Args:
            rollouts: `Rollout` objects, or mappings of the same form (which only the service
                checks: a bad one then fails alone). Ids, offsets and numbers may be numpy arrays
                or torch tensors.
            deadline: seconds for the whole call, all attempts included; None for no deadline: it
                waits for the service as long as it takes, and logs that it does.
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
        self, rollouts: Sequence[RolloutLike], *, deadline: float | None = 600.0, **options: Any
    ) -> AsyncGenerator[tuple[int, wire.Credited | wire.Failed], None]:
        """As `credit`, but yields (position, result) as soon as each rollout is credited."""
        until = time.monotonic() + seconds(deadline)
        chunks = split(rollouts, make_options(**options), self.batch_size, self.retry, until)
        local, loop = self._connections.here(), asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[Position, Answer] | BaseException | _GivenUp | None]
        arrived = asyncio.Queue()

        async def work(chunk: Chunk) -> None:
            try:
                async with _turn(local.turns, chunk):
                    if unsendable := chunk.encode():
                        arrived.put_nowait(_GivenUp(None, unsendable))
                    await self._send(local, chunk, arrived.put_nowait)
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
                if asyncio.get_running_loop() is not loop:
                    raise RuntimeError("a stream can be read on the event loop that began it only")
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
            if asyncio.get_running_loop() is loop:
                await asyncio.gather(*tasks, return_exceptions=True)

    def session(self, *, deadline: float | None = 600.0, **options: Any) -> CreditSession:
        """Submit rollouts as they finish, and collect their results.

        Args:
            deadline: seconds from now for everything submitted; None for no deadline.
            options: as of `credit`.

        Raises:
            InvalidRequestError: an option is unknown or has a wrong value.
        """
        make_options(**options)
        return CreditSession(self, seconds(deadline), options)

    async def _send(
        self, local: Local, chunk: Chunk, emit: Callable[[tuple[Position, Answer]], None]
    ) -> None:
        balancer = local.balancer
        tried = 0  # replicas, in this attempt
        while not chunk.done:
            replica = balancer.pick(chunk.question, chunk.tokens)
            with balancer.sending(replica, chunk.tokens):
                retry_seconds = await self._send_to(local.http, replica, chunk, emit)
            if chunk.done:
                balancer.answered(replica)
                return
            balancer.failed(replica, chunk.retry_after, retry_seconds)
            tried += 1
            if tried < len(balancer.replicas) and balancer.any_usable:
                chunk.move_on()
            else:
                tried = 0
                wait = chunk.pause(balancer.retry_seconds)
                if not chunk.is_refused_as_full:
                    self._log.waiting(replica.url, chunk.attempt + 1, chunk.last)
                await asyncio.sleep(wait)

    async def _send_to(
        self,
        http: httpx.AsyncClient,
        replica: Replica,
        chunk: Chunk,
        emit: Callable[[tuple[Position, Answer]], None],
    ) -> float:
        """Send a chunk. Returns for how long a failure is tried again."""
        request = http.build_request(
            "POST", f"{replica.url}/credit", content=chunk.body(replica.url),
            headers=_HEADERS | trace_headers(), timeout=request_timeout(None),
            extensions=self._extensions(replica.url),
        )  # fmt: skip
        try:
            async with (
                asyncio.timeout(chunk.seconds_to_answer()),
                aclosing(await http.send(request, stream=True)) as response,
            ):
                self._reached.add(replica.url)
                if response.status_code != 200:
                    await response.aread()
                    chunk.refused(response)
                else:
                    async for line in lines(response):
                        if (item := chunk.take(line)) is not None:
                            emit(item)
        except (httpx.TransportError, TimeoutError) as error:
            failure = self._explain(error, replica.url)
            chunk.lost(failure.detail)
            return failure.retry_seconds
        return math.inf

    def _extensions(self, url: str) -> dict[str, Any]:
        """What an answer's request tells of the way that it went."""
        return {"capo_proxy": self._connections.proxies.get(url)}

    def _explain(self, error: Exception, url: str) -> Failure:
        return explain(error, url, self._connections.proxies.get(url), url in self._reached)

    async def info(self) -> wire.Info:
        """The judge, the tokenizers and the limits of the service.

        Raises:
            UnavailableError: no replica can be reached.
        """
        http = self._connections.here().http
        failures: list[str] = []
        for url in self._settings.urls:
            try:
                response = await http.get(f"{url}/info", extensions=self._extensions(url))
            except httpx.TransportError as error:
                failures.append(self._explain(error, url).detail)
            else:
                self._reached.add(url)
                return read(response, wire.Info)
        raise errors.UnavailableError("; ".join(failures), unreachable("; ".join(failures)))

    async def is_ready(self) -> bool:
        """Whether a request would be served now, by any replica."""
        return not await self._why_not_ready()

    async def _why_not_ready(self) -> list[Failure]:
        """Of every replica; empty if any is ready."""
        http = self._connections.here().http
        found: list[Failure] = []
        for url in self._settings.urls:
            try:
                status = (await http.get(f"{url}/health/ready")).status_code
            except httpx.TransportError as error:
                found.append(self._explain(error, url))
            else:
                self._reached.add(url)
                if status == 200:
                    return []
                found.append(Failure(f"{url}/health/ready answers {status}"))
        return found

    async def wait_until_ready(self, seconds: float = 600.0) -> None:
        """Wait for the judge to be loaded.

        Raises:
            UnavailableError: it is not within `seconds`, or no waiting would help.
        """
        began, attempt = time.monotonic(), 1
        while failures := await self._why_not_ready():
            waited = time.monotonic() - began
            why = "; ".join(each.detail for each in failures)
            hopeless = waited >= max(each.retry_seconds for each in failures)
            if hopeless or waited >= seconds:
                raise errors.UnavailableError(
                    f"{self.url} is not ready after {waited:.0f} s: {why}", unreachable(why)
                )
            attempt += 1
            self._log.waiting(self.url, attempt, why)
            await asyncio.sleep(_BETWEEN_PROBES)


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore, chunk: Chunk) -> AsyncIterator[None]:
    """One of the client's requests at once, if there is one before the chunk's deadline."""
    try:
        async with asyncio.timeout(chunk.seconds_left()):
            await turns.acquire()
    except TimeoutError:
        raise errors.DeadlineExceededError(
            "the deadline passed while as many other requests of this client as `concurrency` "
            "allows were under way: allow more, or more time"
        ) from None
    try:
        yield
    finally:
        turns.release()


def seconds(deadline: float | None) -> float:
    """The seconds of a deadline; infinite for None.

    Raises:
        ConfigurationError: it is no number.
    """
    if deadline is None:
        return math.inf
    if math.isnan(deadline):
        raise errors.ConfigurationError("the deadline is not a number")
    return float(deadline)
