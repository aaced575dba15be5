"""What every request gets, whatever its route: an id, a span, and a line in the log."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capo_service.observability import logs, tracing

log = logging.getLogger(__name__)
HEADER = b"x-request-id"


class RequestContext:
    """ASGI middleware. A caller's X-Request-Id is taken over if it is one, and always sent back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # a GET without its body, which the server leaves out
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])
        name = logs.begin_request(headers.get(HEADER, b"").decode("latin-1"))
        credit = scope["path"] == "/credit"
        facts = scope.setdefault("state", {}).setdefault("facts", {})
        status, started = 500, time.monotonic()

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, name.encode())]
            await send(message)

        if not credit:
            await self._app(scope, receive, send_named)
            return
        with tracing.request_span(f"{scope['method']} /credit", scope["headers"], name) as span:
            try:
                await self._app(scope, receive, send_named)
            finally:
                seconds = round(time.monotonic() - started, 4)
                span.set_attributes({"http.response.status_code": status, **facts})
                told = ", ".join(f"{name} {value}" for name, value in facts.items())
                log.info(
                    "%s /credit %d in %.3f s%s", scope["method"], status, seconds,
                    f": {told}" if told else "",
                    extra={"status": status, "seconds": seconds, **facts},
                )  # fmt: skip
