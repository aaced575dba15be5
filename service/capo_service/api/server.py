"""The HTTP server: uvicorn, that drains before it stops, and reads the keys again on SIGHUP."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from capo_service.api.protocol import patient_for
from capo_service.api.runtime import Runtime
from capo_service.settings import Settings

log = logging.getLogger(__name__)
_LINGER_SECONDS = 5  # for requests that are open when all rollouts are answered


def server_config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """uvicorn's configuration, TLS included."""
    tls: dict[str, Any] = {}
    if settings.tls_cert is not None:
        tls = {"ssl_certfile": str(settings.tls_cert), "ssl_keyfile": str(settings.tls_key)}
    if settings.tls_client_ca is not None:
        tls |= {
            "ssl_ca_certs": str(settings.tls_client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED,
        }  # fmt: skip
    return uvicorn.Config(
        app,
        http=patient_for(settings.read_seconds),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=settings.log_level == "debug",
        timeout_graceful_shutdown=_LINGER_SECONDS,
        server_header=False,
        **tls,
    )


class Server(uvicorn.Server):
    """On the first SIGTERM or SIGINT the service drains, and answers on meanwhile; then it stops.

    uvicorn alone would stop listening at once: callers would be refused without a word, and
    nobody could see that the service is not ready. At a second signal, what is unanswered fails.
    """

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._runtime.access.reload)
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None or self.should_exit:
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._draining is not None:
            self._runtime.give_up()
            return
        log.info("stopping: %d rollouts are still to be answered", self._runtime.accepted)
        self._draining = asyncio.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        await self._runtime.drain()
        self.should_exit = True
