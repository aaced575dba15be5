"""HTTP over one connection: uvicorn's, with an end to its patience.

uvicorn waits for ever for the rest of a request's headers, so that a few thousand connections
which send a byte now and then would take every file descriptor (slow loris; RFC 9112, section 9.5
lets a server close them).
"""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def patient_for(seconds: float) -> type[HttpToolsProtocol]:
    """The protocol that waits so long for a request's first byte, and for all of its headers."""

    class Protocol(HttpToolsProtocol):
        _hurry: asyncio.TimerHandle | None = None

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
            self._hurry = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._hurry is not None:
                self._hurry.cancel()
                self._hurry = None

    return Protocol


def raise_file_limit() -> None:
    """Let this process have as many connections as the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
