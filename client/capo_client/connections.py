"""What a client holds open: connections of its own for each event loop that uses it.

Connections, and whatever tasks wait for each other with, belong to the loop and to the process
that made them. A client that is used on a second loop, or in a forked child, opens others.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from capo_client._tls import PROBE_SECONDS, request_timeout, tls
from capo_client.addresses import proxy_for
from capo_client.balance import Balancer
from capo_client.errors import ConfigurationError
from capo_wire.proxies import Proxy

# Less than the 5 s after which uvicorn closes an idle connection: one that is about to be closed
# would lose the request.
_KEEP_ALIVE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What connections are made from. `api_key`, `ca`, `cert`: see `AsyncCreditClient`."""

    urls: tuple[str, ...]
    api_key: str | None
    ca: str | os.PathLike[str] | None
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None
    concurrency: int
    transport: httpx.AsyncBaseTransport | None


@dataclass(frozen=True, slots=True)
class Local:
    """Of one event loop. `turns`: requests at once."""

    http: httpx.AsyncClient
    balancer: Balancer
    turns: asyncio.Semaphore
    pid: int = field(default_factory=os.getpid)


# A parent's connections are kept, unused: collecting one in the child could close what both share.
_inherited: list[Local] = []
_closing: set[asyncio.Task[None]] = set()


class Connections:
    """Those of a client, by event loop.

    Raises:
        ConfigurationError: URLs, key, files or a proxy of the environment cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        Balancer(settings.urls)
        if settings.api_key is not None and not _is_header(settings.api_key):
            raise ConfigurationError("the API key holds characters that no HTTP header can")
        found = {} if settings.transport else {url: proxy_for(url) for url in settings.urls}
        self.proxies: dict[str, Proxy] = {url: proxy for url, proxy in found.items() if proxy}
        self._tls: ssl.SSLContext | bool = False
        if (
            settings.ca
            or settings.cert
            or any(httpx.URL(url).scheme == "https" for url in settings.urls)
        ):
            self._tls = tls(settings.ca, settings.cert)
        self._held: dict[asyncio.AbstractEventLoop, Local] = {}
        self._closed = False

    def _open(self) -> Local:
        settings = self._settings
        http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {},
            timeout=request_timeout(PROBE_SECONDS),
            transport=settings.transport or self._transport(None),
            mounts={_origin(url): self._transport(proxy) for url, proxy in self.proxies.items()},
            trust_env=False,
        )
        return Local(http, Balancer(settings.urls), asyncio.Semaphore(settings.concurrency))

    def _transport(self, proxy: Proxy | None) -> httpx.AsyncHTTPTransport:
        # Without a limit of its own: a request is made when its turn comes, and sent at once.
        limits = httpx.Limits(
            max_connections=None,
            max_keepalive_connections=self._settings.concurrency + 2,
            keepalive_expiry=_KEEP_ALIVE_SECONDS,
        )
        return httpx.AsyncHTTPTransport(
            verify=self._tls, limits=limits, proxy=proxy.url if proxy else None, trust_env=False
        )

    def here(self) -> Local:
        """Those of the running loop.

        Raises:
            RuntimeError: the client is closed.
        """
        if self._closed:
            raise RuntimeError("the client is closed: make another one")
        loop = asyncio.get_running_loop()
        local = self._held.get(loop)
        if local is None or local.pid != os.getpid():
            self._drop_dead()
            local = self._held[loop] = self._open()
        return local

    def _drop_dead(self) -> None:
        for loop, local in list(self._held.items()):
            if local.pid != os.getpid():
                _inherited.append(local)
            elif not loop.is_closed():
                continue
            self._held.pop(loop, None)

    async def aclose(self) -> None:
        """Close all. May be called more than once."""
        self._closed = True
        self._drop_dead()
        mine = self._held.pop(asyncio.get_running_loop(), None)
        self.abandon()
        if mine is not None:
            await mine.http.aclose()

    def abandon(self) -> None:
        """Have each loop close its connections when it comes to it."""
        self._drop_dead()
        while self._held:
            loop, local = self._held.popitem()
            with suppress(RuntimeError):  # it was closed meanwhile
                loop.call_soon_threadsafe(_close, local.http)


def _close(http: httpx.AsyncClient) -> None:
    task = asyncio.get_running_loop().create_task(http.aclose())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _is_header(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _origin(url: str) -> str:
    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode()}"
