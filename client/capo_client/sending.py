"""Asks the service for a client: which replica, by which connection, and again after failures."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

from capo_client import errors
from capo_client._request_state import Answer, Chunk, Position
from capo_client._tls import Failure, explain, lines, request_timeout, trace_headers
from capo_client.balance import Replica
from capo_client.connections import Connections, Local, Settings
from capo_client.retry import WaitLog

_HEADERS = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}


class Sender:
    """Sends what a client has to send. `log`: says what is waited for."""

    def __init__(self, settings: Settings) -> None:
        self.connections = Connections(settings)
        self.log = WaitLog()
        self._urls = settings.urls
        self._reached: set[str] = set()  # URLs that have answered

    async def send(
        self, local: Local, chunk: Chunk, emit: Callable[[tuple[Position, Answer]], None]
    ) -> None:
        """Have a chunk credited, result by result.

        Raises:
            UnavailableError, DeadlineExceededError: some of it is still pending.
            ProblemResponseError, InvalidResponseError: the request is refused for good.
        """
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
                    self.log.waiting(replica.url, chunk.attempt + 1, chunk.last)
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
            "POST",
            f"{replica.url}/credit",
            content=chunk.body(replica.url),
            headers=_HEADERS | trace_headers(),
            timeout=request_timeout(None),
            extensions=self._extensions(replica.url),
        )
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
        """Which way a request goes, for what is said of its answer."""
        return {"capo_proxy": self.connections.proxies.get(url)}

    def _explain(self, error: Exception, url: str) -> Failure:
        return explain(error, url, self.connections.proxies.get(url), url in self._reached)

    async def get(self, url: str, path: str) -> httpx.Response | Failure:
        """What one replica answers."""
        try:
            http = self.connections.here().http
            response = await http.get(url + path, extensions=self._extensions(url))
        except httpx.TransportError as error:
            return self._explain(error, url)
        self._reached.add(url)
        return response

    async def why_not_ready(self) -> list[Failure]:
        """Of every replica; empty if any is ready."""
        found: list[Failure] = []
        for url in self._urls:
            answer = await self.get(url, "/health/ready")
            if isinstance(answer, Failure):
                found.append(answer)
            elif answer.status_code == 200:
                return []
            else:
                found.append(Failure(f"{url}/health/ready answers {answer.status_code}"))
        return found


@asynccontextmanager
async def turn(turns: asyncio.Semaphore, chunk: Chunk) -> AsyncIterator[None]:
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
