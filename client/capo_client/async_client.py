"""`AsyncCreditClient`: sends a batch in chunks, with retries and a deadline for the whole call."""

from __future__ import annotations

import asyncio
import math
import os
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

import capo_wire as wire
from capo_client import errors
from capo_client._arrivals import Arrivals
from capo_client._http import Failure, read
from capo_client._options import CreditOptionArgs, make_options
from capo_client._problems import unreachable
from capo_client._request_state import Chunk, split
from capo_client.addresses import parse_urls
from capo_client.connections import ConnectionSettings, LoopConnections, certificate_files
from capo_client.encoding import RolloutLike
from capo_client.results import CreditBatch
from capo_client.retry import RetryPolicy
from capo_client.sending import Sender, request_slot
from capo_client.session import CreditSession

Progress = Callable[[int, int], None]

DEFAULT_URL = "http://127.0.0.1:8000"
_PROBE_INTERVAL = 0.5


class AsyncCreditClient:
    """Asynchronous client.

    It may be used on several event loops, one after the other or at the same time, and in forked
    processes: each opens its own connections. A copy or a pickle contains the settings, including
    the API key, and no connections.

    Args:
        url: the service, or several replicas of it as a list or separated by commas. Default:
            CAPO_URL, or port 8000 of this machine. Rollouts of a question go to the same replica
            while that is healthy and no busier than others; see `balance`.
        api_key: sent as a bearer token. Default: CAPO_API_KEY.
        ca: PEM file of the certificate authorities to trust in place of the system's. Default:
            CAPO_CA_FILE.
        cert: PEM files (certificate, private key) of this client, for mutual TLS. Default:
            CAPO_CERT_FILE and CAPO_KEY_FILE.
        batch_size: rollouts per request. Keep rollouts of one question together: the judge
            computes their common prefix once.
        concurrency: concurrent requests, over all calls and sessions on an event loop.
        retry: when to send again.
        transport: replaces the network in tests.

    Raises:
        ConfigurationError: the URL, the key, a file or a proxy cannot be used.
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
        given_ca, given_cert = certificate_files()
        self._settings = ConnectionSettings(
            urls=tuple(parse_urls(url or os.environ.get("CAPO_URL") or DEFAULT_URL)),
            api_key=(api_key or os.environ.get("CAPO_API_KEY") or "").strip() or None,
            ca=ca or given_ca,
            cert=given_cert if cert is None else cert,
            concurrency=concurrency,
            transport=transport,
        )
        self.batch_size = batch_size
        self.retry = retry or RetryPolicy()
        self._begin()

    def _begin(self) -> None:
        self._sender = Sender(self._settings)
        # Closes the connections of a client that is collected without having been closed.
        weakref.finalize(self, self._sender.connections.abandon).atexit = False

    def __getstate__(self) -> dict[str, Any]:
        if self._settings.transport is not None:
            raise TypeError("a client with a custom transport can be neither pickled nor copied")
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
        """The service, or its replicas separated by commas."""
        return ",".join(self._settings.urls)

    @property
    def concurrency(self) -> int:
        """Concurrent requests on an event loop."""
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
        **options: Unpack[CreditOptionArgs],
    ) -> CreditBatch:
        """Credit a batch.

        Args:
            rollouts: `Rollout` objects, or mappings with the same fields. Mappings are checked by
                the service alone, so that an invalid one fails without the others. Ids, offsets
                and numbers may be numpy arrays or torch tensors.
            deadline: seconds for the whole call, including retries. None: no deadline; the call
                waits for the service indefinitely, and logs that it waits.
            progress: called with (done, total) after each result.
            options: `voting`, `reward`, `segment`, `show_reference`, `include`, `priority`, `run`:
                the fields of `capo_wire.CreditOptions`.

        Returns:
            Results in the order of `rollouts`. One that could not be credited is a `Failed`.

        Raises:
            UnknownOptionError: an option is unknown.
            InvalidRequestError: an option has a wrong value.
            ProblemResponseError: the service refuses the request itself.
            UnavailableError, DeadlineExceededError: nothing was credited.
        """
        results: dict[int, wire.Result] = {}
        stream = self.credit_stream(rollouts, deadline=deadline, **options)
        async with aclosing(stream):
            async for position, result in stream:
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
    ) -> AsyncGenerator[tuple[int, wire.Credited | wire.Failed], None]:
        """As `credit`, but yields (position, result) as soon as each rollout is credited."""
        return self._stream(rollouts, deadline, make_options(options))

    def session(
        self, *, deadline: float | None = 600.0, **options: Unpack[CreditOptionArgs]
    ) -> CreditSession:
        """Submit rollouts as they are sampled, and collect their results.

        Args:
            deadline: seconds from now for everything submitted; None for no deadline.
            options: those of `credit`.

        Raises:
            UnknownOptionError: an option is unknown.
            InvalidRequestError: an option has a wrong value.
        """
        stream = partial(self._stream, options=make_options(options))
        return CreditSession(stream, seconds(deadline))

    async def _stream(
        self, rollouts: Sequence[RolloutLike], deadline: float | None, options: dict[str, Any]
    ) -> AsyncGenerator[tuple[int, wire.Credited | wire.Failed], None]:
        until = time.monotonic() + seconds(deadline)
        chunks = split(rollouts, options, self.batch_size, self.retry, until)
        connections, loop = self._sender.connections.here(), asyncio.get_running_loop()
        arrivals = Arrivals(len(chunks))
        tasks = [
            asyncio.create_task(self._credit_chunk(connections, chunk, arrivals))
            for chunk in chunks
        ]
        try:
            while (item := await arrivals.next()) is not None:
                yield item
            for failure in arrivals.failures():
                yield failure
        finally:
            for task in tasks:
                task.cancel()
            if asyncio.get_running_loop() is loop:
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _credit_chunk(
        self, connections: LoopConnections, chunk: Chunk, arrivals: Arrivals
    ) -> None:
        try:
            async with request_slot(connections.slots, chunk):
                # Here, so that a body is built when it is sent and not while it waits for a slot.
                if unsendable := chunk.encode():
                    arrivals.give_up(unsendable)
                await self._sender.send(connections, chunk, arrivals.put)
        except (errors.UnavailableError, errors.DeadlineExceededError) as error:
            arrivals.give_up(chunk.give_up(error), error)
        except Exception as error:
            arrivals.fail(error)
        finally:
            arrivals.task_done()

    async def info(self) -> wire.Info:
        """The judge, the tokenizers and the limits of the service.

        Raises:
            UnavailableError: no replica can be reached.
        """
        failures: list[str] = []
        for url in self._settings.urls:
            response = await self._sender.get(url, "/info")
            if not isinstance(response, Failure):
                return read(response, wire.Info)
            failures.append(response.detail)
        raise errors.UnavailableError("; ".join(failures), unreachable("; ".join(failures)))

    async def is_ready(self) -> bool:
        """Whether a replica would serve a request now."""
        return not await self._sender.why_not_ready()

    async def wait_until_ready(self, seconds: float = 600.0) -> None:
        """Wait until the judge is loaded.

        Raises:
            UnavailableError: it is not within `seconds`, or waiting cannot help.
        """
        began, attempt = time.monotonic(), 1
        while failures := await self._sender.why_not_ready():
            waited = time.monotonic() - began
            reason = "; ".join(failure.detail for failure in failures)
            is_permanent = waited >= max(failure.retry_seconds for failure in failures)
            if is_permanent or waited >= seconds:
                raise errors.UnavailableError(
                    f"{self.url} is not ready after {waited:.0f} s: {reason}", unreachable(reason)
                )
            attempt += 1
            self._sender.log.waiting(self.url, attempt, reason, seconds - waited)
            await asyncio.sleep(_PROBE_INTERVAL)


def seconds(deadline: float | None) -> float:
    """A deadline as seconds; infinite for None.

    Raises:
        ConfigurationError: it is not a number.
    """
    if deadline is None:
        return math.inf
    if math.isnan(deadline):
        raise errors.ConfigurationError("the deadline is not a number")
    return float(deadline)
