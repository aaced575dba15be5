"""uvicorn's HTTP protocol with a timeout for request headers.

uvicorn waits without limit for the rest of a request's headers, so that a few thousand connections
which send a byte now and then would take every file descriptor (slow loris; RFC 9112, section 9.5
lets a server close them).
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def protocol_with_timeout(seconds: float) -> type[HttpToolsProtocol]:
    """A protocol that closes connections whose request headers take longer than `seconds`."""

    class Protocol(HttpToolsProtocol):
        _timeout: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._start()

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self._stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _start(self) -> None:
            self._stop()
            self._timeout = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._timeout is not None:
                self._timeout.cancel()
                self._timeout = None

    return Protocol
