"""HTTP to an OpenAI-compatible server: calls with retries, and whether the server responds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx

from capo_service.engine.base import (
    CritiqueFailedError,
    EngineBusyError,
    EngineDeadError,
    engine_metrics,
)
from capo_service.engine.openai_answer import object_of
from capo_wire.retry_policy import OVERLOADED, RETRYABLE_UPSTREAM, retry_after, wait_seconds

log = logging.getLogger(__name__)

_ATTEMPTS = 4
_BACKOFF_SECONDS = 1.0
_JITTER = 0.5  # so that the waits outlast a restart of the server of 3 s at the least
_LONGEST_WAIT_SECONDS = 10.0
_WARNING_SECONDS = 10.0  # between two warnings about retries
_PROBE_SECONDS = 1.25  # between two probes, and the timeout of each
_MAX_FAILED_PROBES = 2  # in a row; then the server counts as lost


class RefusedError(CritiqueFailedError):
    """The server refuses a request with a status below 500; trying again would not help."""

    def __init__(self, message: str, status: int, body: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class Upstream:
    """One server.

    Args:
        url: base URL, with or without `/v1`.
        connections: maximum number of connections for calls; the probe has its own.
        proxy: URL of the proxy for the server; environment variables are not read.
        proxy_name: the proxy, for messages.
        on_lost: called when the server has stopped responding, to cancel the calls to it.
        transport: replaces the network in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        connections: int,
        proxy: str | None,
        proxy_name: str,
        on_lost: Callable[[], None],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        server: dict[str, Any] = {
            "base_url": url.rstrip("/").removesuffix("/v1") + "/v1",
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
            "transport": transport,
            "proxy": proxy,
            "verify": httpx.create_ssl_context(),  # reads SSL_CERT_FILE, as trust_env would
            "trust_env": False,
        }
        self.http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=5.0),  # the caller sets the deadline
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            **server,
        )
        self._prober = httpx.AsyncClient(**server)  # does not wait for a connection behind calls
        self.proxy_name = (proxy_name or proxy) if proxy else ""
        self.ready = False
        self._on_lost = on_lost
        self._watcher: asyncio.Task[None] | None = None
        self._responses = 0
        self._retries = 0
        self._next_warning = 0.0

    def watch(self) -> None:
        """The server is ready: probe it from now on."""
        self.ready = True
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Close all connections. May be called more than once."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        self.ready = False
        await self.http.aclose()
        await self._prober.aclose()

    async def _watch(self) -> None:
        """Calls to a server that has stopped responding would wait until their deadline."""
        failed = 0
        while True:
            responses = self._responses
            await asyncio.sleep(_PROBE_SECONDS / (1 + failed))
            try:
                response = await self._prober.get("/models", timeout=_PROBE_SECONDS)
            except httpx.HTTPError:
                # A server that is only busy still responds to calls.
                failed = failed + 1 if self._responses == responses else 0
                if failed >= _MAX_FAILED_PROBES:
                    self.ready = False
                    self._on_lost()
            else:
                failed = 0
                self.ready = response.status_code < 500

    async def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST a JSON body, with retries after temporary failures; returns the response's object.

        Raises:
            EngineDeadError: the server cannot be reached, or cannot serve.
            EngineBusyError: it is overloaded.
            RefusedError: it refuses this request.
            CritiqueFailedError: it fails on this request, or its response cannot be read.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            at_least = 0.0
            try:
                response = await self.http.post(route, json=body)
                self._responses += 1
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS:
                    self.ready = False
                    way = f" through {self.proxy_name}" if self.proxy_name else ""
                    raise EngineDeadError(f"upstream cannot be reached{way}: {error!r}") from error
                self._warn(f"cannot be reached ({error!r})")
            except httpx.RequestError as error:  # for instance a faulty content encoding
                raise CritiqueFailedError(
                    f"upstream's response cannot be decoded: {error!r}"
                ) from error
            else:
                if attempt == _ATTEMPTS or response.status_code not in RETRYABLE_UPSTREAM:
                    return self._object(response)
                self._warn(f"answers {response.status_code}")
                at_least = retry_after(response.headers.get("retry-after"))
            wait = wait_seconds(
                attempt,
                at_least,
                base=_BACKOFF_SECONDS,
                longest=_LONGEST_WAIT_SECONDS,
                jitter=_JITTER,
            )
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _warn(self, reason: str) -> None:
        """Log retries, at a limited rate."""
        self._retries += 1
        now = time.monotonic()
        if now >= self._next_warning:
            self._next_warning = now + _WARNING_SECONDS
            log.warning("upstream %s; retrying (%d retries so far)", reason, self._retries)

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        if response.is_success:
            try:
                return object_of(response.json())
            except (ValueError, RecursionError) as error:
                raise CritiqueFailedError("upstream sent no JSON") from error
        status = response.status_code
        message = f"upstream answered {status}: {response.text[:300]}"
        if status in OVERLOADED:
            raise EngineBusyError(message)
        # 500 may concern this critique alone, as long as the server responds to probes.
        if status in RETRYABLE_UPSTREAM and (status != 500 or not self.ready):
            raise EngineDeadError(message)
        if status >= 500:
            raise CritiqueFailedError(message)
        raise RefusedError(message, status, response.text)

    async def metrics(self) -> bytes:
        """The server's metrics in Prometheus' text format; empty if it has none."""
        root = str(self.http.base_url).rstrip("/").removesuffix("/v1")
        try:
            response = await self.http.get(f"{root}/metrics", timeout=2)
        except httpx.HTTPError:
            return b""
        is_text = response.headers.get("content-type", "").startswith("text/plain")
        return engine_metrics(response.content) if response.status_code == 200 and is_text else b""
