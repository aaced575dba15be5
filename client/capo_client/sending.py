"""Sends chunks: chooses the replica and the connection, and retries after failures."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

import capo_wire as wire
from capo_client import errors
from capo_client._http import Failure, explain, lines, request_timeout, trace_headers
from capo_client._request_state import Chunk
from capo_client.balance import Replica
from capo_client.connections import Connections, ConnectionSettings, LoopConnections
from capo_client.retry import WaitLog

_HEADERS = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}


class Sender:
    """Sends the requests of one client. `log` reports what the client waits for."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.connections = Connections(settings)
        self.log = WaitLog()
        self._urls = settings.urls
        self._reached: set[str] = set()  # URLs that have answered
        self._know_lengths: dict[str, bool] = {}  # URLs, and whether they know `token_lengths`

    async def send(
        self,
        connections: LoopConnections,
        chunk: Chunk,
        emit: Callable[[tuple[int, wire.Result]], None],
    ) -> None:
        """Send a chunk until it is credited; `emit` is called with each (position, result).

        Raises:
            UnavailableError, DeadlineExceededError: some rollouts have no result.
            ProblemResponseError, InvalidResponseError: a retry cannot help.
        """
        balancer = connections.balancer
        tried = 0  # replicas in this attempt
        while not chunk.done:
            replica = balancer.pick(chunk.question, chunk.tokens)
            with balancer.sending(replica, chunk.tokens):
                retry_seconds = await self._send_to(connections.http, replica, chunk, emit)
            if chunk.done:
                balancer.answered(replica)
                return
            if chunk.lengths_refused:  # by an older replica behind the same address
                self._know_lengths[replica.url] = False
                continue
            balancer.failed(replica, chunk.retry_after, retry_seconds)
            tried += 1
            if tried < len(balancer.replicas) and balancer.any_usable:
                chunk.move_on()
            else:
                tried = 0
                wait = chunk.pause(balancer.retry_seconds)
                if not chunk.is_refused_as_full:
                    self.log.waiting(
                        replica.url, chunk.attempt + 1, chunk.last_failure, chunk.seconds_left()
                    )
                await asyncio.sleep(wait)

    async def _send_to(
        self,
        http: httpx.AsyncClient,
        replica: Replica,
        chunk: Chunk,
        emit: Callable[[tuple[int, wire.Result]], None],
    ) -> float:
        """Send a chunk once. Returns for how many seconds its failure is retried."""
        request = http.build_request(
            "POST",
            f"{replica.url}/credit",
            content=chunk.body(replica.url, self._know_lengths.get(replica.url, False)),
            headers=_HEADERS | trace_headers(),
            timeout=request_timeout(None),
            extensions=self._extensions(replica.url),
        )
        try:
            async with (
                asyncio.timeout(chunk.response_timeout()),
                aclosing(await http.send(request, stream=True)) as response,
            ):
                self._reached.add(replica.url)
                if response.status_code != 200:
                    await response.aread()
                    chunk.refused(response)
                else:
                    forms = response.headers.get(wire.FORMS_HEADER, "")
                    self._know_lengths.setdefault(replica.url, "token_lengths" in forms)
                    async for line in lines(response):
                        if (item := chunk.take(line)) is not None:
                            emit(item)
        except (httpx.TransportError, TimeoutError) as error:
            failure = self._explain(error, replica.url)
            chunk.lost(failure.detail)
            return failure.retry_seconds
        return math.inf

    def _extensions(self, url: str) -> dict[str, Any]:
        """The proxy of a request, for errors about its response."""
        return {"capo_proxy": self.connections.proxies.get(url)}

    def _explain(self, error: Exception, url: str) -> Failure:
        return explain(error, url, self.connections.proxies.get(url), url in self._reached)

    async def get(self, url: str, path: str) -> httpx.Response | Failure:
        """GET from one replica."""
        try:
            http = self.connections.here().http
            response = await http.get(url + path, extensions=self._extensions(url))
        except httpx.TransportError as error:
            return self._explain(error, url)
        self._reached.add(url)
        return response

    async def why_not_ready(self) -> list[Failure]:
        """Why each replica is not ready; empty if one is ready."""
        failures: list[Failure] = []
        for url in self._urls:
            response = await self.get(url, "/health/ready")
            if isinstance(response, Failure):
                failures.append(response)
            elif response.status_code == 200:
                return []
            else:
                failures.append(Failure(f"{url}/health/ready returns {response.status_code}"))
        return failures


@asynccontextmanager
async def request_slot(slots: asyncio.Semaphore, chunk: Chunk) -> AsyncIterator[None]:
    """Hold one of the client's `concurrency` request slots.

    Raises:
        DeadlineExceededError: none was free before the chunk's deadline.
    """
    try:
        async with asyncio.timeout(chunk.seconds_left()):
            await slots.acquire()
    except TimeoutError:
        raise errors.DeadlineExceededError(
            "the deadline passed while all request slots of this client were in use: raise "
            "`concurrency` or the deadline"
        ) from None
    try:
        yield
    finally:
        slots.release()
