"""Connections of a client: a pool for each event loop that uses it.

Connections and asyncio primitives belong to the loop and the process that made them. A client
that is used on a second loop, or in a forked child, opens others.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from capo_client._http import PROBE_SECONDS, request_timeout, tls
from capo_client.addresses import proxy_for
from capo_client.balance import Balancer
from capo_client.errors import ConfigurationError
from capo_wire.proxies import Proxy

# Less than the 5 s after which uvicorn closes an idle connection: one that is about to be closed
# would lose its request.
_KEEP_ALIVE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How to connect; see the arguments of `AsyncCreditClient`."""

    urls: tuple[str, ...]
    api_key: str | None
    ca: str | os.PathLike[str] | None
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None
    concurrency: int
    transport: httpx.AsyncBaseTransport | None


@dataclass(frozen=True, slots=True)
class LoopConnections:
    """The pool of one event loop. `slots`: one for each concurrent request."""

    http: httpx.AsyncClient
    balancer: Balancer
    slots: asyncio.Semaphore
    pid: int = field(default_factory=os.getpid)


# A parent's connections stay referenced: collecting one in the child could close the shared socket.
_inherited: list[LoopConnections] = []
_closing: set[asyncio.Task[None]] = set()


def certificate_files() -> tuple[str | None, tuple[str, str] | None]:
    """The authorities to trust, and this client's certificate and key, as CAPO_* variables say."""
    cert = os.environ.get("CAPO_CERT_FILE")
    own = (cert, os.environ.get("CAPO_KEY_FILE") or cert) if cert else None
    return os.environ.get("CAPO_CA_FILE"), own


class Connections:
    """The connections of a client, by event loop.

    Raises:
        ConfigurationError: URLs, key, files or a proxy cannot be used.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        Balancer(settings.urls)  # checks them
        if settings.api_key is not None and not _is_header(settings.api_key):
            raise ConfigurationError(
                "the API key contains characters that are not allowed in an HTTP header"
            )
        self.proxies: dict[str, Proxy] = {}
        if settings.transport is None:
            proxies = {url: proxy_for(url) for url in settings.urls}
            self.proxies = {url: proxy for url, proxy in proxies.items() if proxy}
        self._tls: ssl.SSLContext | bool = False
        if (
            settings.ca
            or settings.cert
            or any(httpx.URL(url).scheme == "https" for url in settings.urls)
        ):
            self._tls = tls(settings.ca, settings.cert)
        self._by_loop: dict[asyncio.AbstractEventLoop, LoopConnections] = {}
        self._closed = False

    def _open(self) -> LoopConnections:
        settings = self._settings
        http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {},
            timeout=request_timeout(PROBE_SECONDS),
            transport=settings.transport or self._transport(None),
            mounts={_origin(url): self._transport(proxy) for url, proxy in self.proxies.items()},
            trust_env=False,
        )
        return LoopConnections(
            http, Balancer(settings.urls), asyncio.Semaphore(settings.concurrency)
        )

    def _transport(self, proxy: Proxy | None) -> httpx.AsyncHTTPTransport:
        # No limit here: the slots bound requests, and one that has a slot is sent at once.
        limits = httpx.Limits(
            max_connections=None,
            max_keepalive_connections=self._settings.concurrency + 2,
            keepalive_expiry=_KEEP_ALIVE_SECONDS,
        )
        return httpx.AsyncHTTPTransport(
            verify=self._tls, limits=limits, proxy=proxy.url if proxy else None, trust_env=False
        )

    def here(self) -> LoopConnections:
        """The connections of the running loop.

        Raises:
            RuntimeError: the client is closed.
        """
        if self._closed:
            raise RuntimeError("the client is closed; create a new one")
        loop = asyncio.get_running_loop()
        connections = self._by_loop.get(loop)
        if connections is None or connections.pid != os.getpid():
            self._drop_dead()
            connections = self._by_loop[loop] = self._open()
        return connections

    def _drop_dead(self) -> None:
        for loop, connections in list(self._by_loop.items()):
            if connections.pid != os.getpid():
                _inherited.append(connections)
            elif not loop.is_closed():
                continue
            self._by_loop.pop(loop, None)

    async def aclose(self) -> None:
        """Close all. May be called more than once."""
        self._closed = True
        self._drop_dead()
        mine = self._by_loop.pop(asyncio.get_running_loop(), None)
        self.abandon()
        if mine is not None:
            await mine.http.aclose()

    def abandon(self) -> None:
        """Schedule the closing of each loop's connections on that loop, without waiting."""
        self._drop_dead()
        while self._by_loop:
            loop, connections = self._by_loop.popitem()
            with suppress(RuntimeError):  # the loop was closed in the meantime
                loop.call_soon_threadsafe(_close, connections.http)


def _close(http: httpx.AsyncClient) -> None:
    task = asyncio.get_running_loop().create_task(http.aclose())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _is_header(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _origin(url: str) -> str:
    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode()}"
