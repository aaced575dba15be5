"""`AsyncCreditClient`: sends a batch in chunks, and again what met a 429, a 503 or a lost line."""

from __future__ import annotations

import asyncio
import math
import os
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

import capo_wire as wire
from capo_client import errors
from capo_client._request_state import Answer, Chunk, Position, make_options, split, unreachable
from capo_client._tls import Failure, read
from capo_client.addresses import parse_urls
from capo_client.connections import Settings
from capo_client.encoding import RolloutLike
from capo_client.results import CreditBatch
from capo_client.retry import RetryPolicy
from capo_client.sending import Sender, turn
from capo_client.session import CreditSession

Progress = Callable[[int, int], None]

DEFAULT_URL = "http://127.0.0.1:8000"
_BETWEEN_PROBES = 0.5


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
        self._sender = Sender(self._settings)
        # For clients that are not closed.
        weakref.finalize(self, self._sender.connections.abandon).atexit = False

    def __getstate__(self) -> dict[str, Any]:
        if self._settings.transport is not None:
            raise TypeError(
                "a client with a transport of its own can be neither pickled nor copied"
            )
        return {
            "_settings": self._settings,
            "batch_size": self.batch_size,
            "retry": self.retry,
        }

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
        await self._sender.connections.aclose()

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
        local, loop = self._sender.connections.here(), asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[Position, Answer] | BaseException | _GivenUp | None]
        arrived = asyncio.Queue()

        async def work(chunk: Chunk) -> None:
            try:
                async with turn(local.turns, chunk):
                    if unsendable := chunk.encode():
                        arrived.put_nowait(_GivenUp(None, unsendable))
                    await self._sender.send(local, chunk, arrived.put_nowait)
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

    async def info(self) -> wire.Info:
        """The judge, the tokenizers and the limits of the service.

        Raises:
            UnavailableError: no replica can be reached.
        """
        failures: list[str] = []
        for url in self._settings.urls:
            answer = await self._sender.get(url, "/info")
            if not isinstance(answer, Failure):
                return read(answer, wire.Info)
            failures.append(answer.detail)
        raise errors.UnavailableError("; ".join(failures), unreachable("; ".join(failures)))

    async def is_ready(self) -> bool:
        """Whether a request would be served now, by any replica."""
        return not await self._sender.why_not_ready()

    async def wait_until_ready(self, seconds: float = 600.0) -> None:
        """Wait for the judge to be loaded.

        Raises:
            UnavailableError: it is not within `seconds`, or no waiting would help.
        """
        began, attempt = time.monotonic(), 1
        while failures := await self._sender.why_not_ready():
            waited = time.monotonic() - began
            why = "; ".join(each.detail for each in failures)
            hopeless = waited >= max(each.retry_seconds for each in failures)
            if hopeless or waited >= seconds:
                raise errors.UnavailableError(
                    f"{self.url} is not ready after {waited:.0f} s: {why}", unreachable(why)
                )
            attempt += 1
            self._sender.log.waiting(self.url, attempt, why)
            await asyncio.sleep(_BETWEEN_PROBES)


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
