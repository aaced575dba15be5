"""A request id for every request; a trace span and a log line for requests for credit."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capo_service.observability import logs, tracing

log = logging.getLogger(__name__)
HEADER = b"x-request-id"


class AccessLog:
    """ASGI middleware. A valid X-Request-Id of the client is kept; every response has the id."""

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
        state = scope.setdefault("state", {})
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
                # Set by the route: name of the API key, number of rollouts.
                facts = dict(state.get("access", {}))
                if "ended" in state:
                    facts["ended"] = state["ended"]
                span.set_attributes({"http.response.status_code": status, **facts})
                shown = ", ".join(f"{name} {value}" for name, value in facts.items())
                log.info(
                    "%s /credit %d in %.3f s%s",
                    scope["method"],
                    status,
                    seconds,
                    f": {shown}" if shown else "",
                    extra={"status": status, "seconds": seconds, **facts},
                )
