"""The HTTP server: uvicorn with graceful shutdown, and key reload on SIGHUP."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from capo_service.api import listen_address
from capo_service.api.listen_address import ListenAddress
from capo_service.api.uvicorn_protocol import protocol_with_timeout
from capo_service.pipeline.service import Service
from capo_service.settings import Settings

log = logging.getLogger(__name__)
_LINGER_SECONDS = 5  # for requests that are open when all rollouts are answered


def server_config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """uvicorn's configuration, TLS included."""
    tls: dict[str, Any] = {}
    if settings.tls_cert is not None:
        tls = {"ssl_certfile": str(settings.tls_cert), "ssl_keyfile": str(settings.tls_key)}
    if settings.tls_client_ca is not None:
        ca = str(settings.tls_client_ca)
        tls |= {"ssl_ca_certs": ca, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return uvicorn.Config(
        app,
        http=protocol_with_timeout(settings.read_seconds),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=settings.log_level == "debug",
        timeout_graceful_shutdown=_LINGER_SECONDS,
        server_header=False,
        **tls,
    )


class CannotListenError(Exception):
    """The address is in use, not one of this machine, or not permitted; the log says which."""


class Server(uvicorn.Server):
    """On the first SIGTERM or SIGINT the service drains while it goes on responding, then stops.

    uvicorn alone would stop listening at once: connections of clients and of readiness probes would
    be refused. A second signal aborts the remaining rollouts.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._note: Path | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Listen; the URL is logged when the judge is loaded.

        Raises:
            CannotListenError: it cannot.
        """
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._service.key_watch.reload)
        try:
            await super().startup(sockets)
        except SystemExit:
            if self.lifespan.should_exit:
                raise
            raise CannotListenError from None
        listening = [each for server in self.servers for each in server.sockets]
        settings = self._service.settings
        is_open = self._service.keys.open and settings.tls_client_ca is None
        if is_open and (beyond := [each for each in listening if not _is_local(each)]):
            log.warning(
                "no API key is needed, and other machines can reach %s, port %d: anyone who can "
                "reach it can use the judge. Set CAPO_API_KEY, or api_keys_file (`capo key NAME`)",
                *beyond[0].getsockname()[:2],
            )
        url = address(settings, listening)
        try:
            self._note = listen_address.write(
                ListenAddress(url, settings.tls_client_ca is not None)
            )
        except OSError as error:
            log.warning(
                "cannot write the address file; health checks will use CAPO_PORT: %s", error
            )
        self._announcing = asyncio.create_task(self._announce(url))

    async def _announce(self, url: str) -> None:
        await self._service.loaded.wait()
        log.info(
            "Ready: judge %s at %s (inspector: /, API docs: /docs, metrics: /metrics)",
            self._service.backend.model,
            url,
        )

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        await super().shutdown(sockets)
        if self._note is not None:
            self._note.unlink(missing_ok=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None or self.should_exit:
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._draining is not None:
            self._service.fail_unfinished()
            return
        log.info("shutting down: waiting for %d rollouts", self._service.accepted)
        self._draining = asyncio.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        try:
            await self._service.drain()
        finally:
            self.should_exit = True


def address(settings: Settings, listening: Sequence[socket.socket]) -> str:
    """The URL of a service, for a browser on its machine.

    Args:
        settings: of the service.
        listening: its sockets; with port 0 only they know the port.
    """
    host, port = listening[0].getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    elif settings.port:
        host = settings.host  # a certificate usually has this name
    scheme = "https" if settings.tls_cert is not None else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _is_local(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
