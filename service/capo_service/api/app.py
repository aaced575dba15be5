"""The FastAPI application: routes, auth, problem details, OpenAPI."""

from __future__ import annotations

import asyncio
import hmac
import importlib.metadata
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar, get_args

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from capo_client import wire
from capo_service.api import problems
from capo_service.api.parsing import Batch, parse, read_body
from capo_service.api.problems import ProblemError
from capo_service.api.runtime import Answer, Clock, Runtime
from capo_service.engine.base import Engine
from capo_service.settings import Settings

NDJSON = "application/x-ndjson"
_INLINE_BYTES = 64 * 1024  # smaller bodies are parsed and written on the event loop
_NAMES = {404: "not-found", 405: "method-not-allowed"}

T = TypeVar("T")


def version() -> str:
    """The installed version of this distribution."""
    return importlib.metadata.version("capo-credit")


def create_app(
    settings: Settings,
    engine: Engine,
    on_failure: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """The service around one engine. `on_failure` hears of a judge that cannot be loaded."""
    runtime = Runtime(settings, engine, on_failure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        try:
            yield
        finally:
            await runtime.close()

    app = FastAPI(
        title="capo-credit",
        version=version(),
        summary="Voted step and token rewards from a generative process reward model (CAPO).",
        lifespan=lifespan,
    )
    app.state.runtime = runtime
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    _add_error_handlers(app)
    _add_routes(app, runtime)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, error: ProblemError) -> Response:
        return problems.response(error.problem, error.headers)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        name = _NAMES.get(error.status_code, "internal")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return problems.response(problems.make(name, detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def on_failure(request: Request, error: Exception) -> Response:
        return problems.response(problems.explain(error))


def _add_routes(app: FastAPI, runtime: Runtime) -> None:
    settings = runtime.settings
    keys = [key.get_secret_value().encode() for key in settings.api_keys]

    def authorize(request: Request) -> None:
        if not keys:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        sent = given.strip().encode()
        matches = [hmac.compare_digest(sent, key) for key in keys]  # all, in constant time
        if scheme.lower() != "bearer" or not any(matches):
            raise problems.error("unauthorized", "send Authorization: Bearer <one of api_keys>")

    authorized = [Depends(authorize)]

    @app.post(
        "/credit",
        dependencies=authorized,
        response_model=None,
        responses={
            200: {
                "description": "Results, in the order of the request; or, with `Accept: "
                f"{NDJSON}`, one result a line as they finish, then a CreditSummary.",
                "content": {
                    "application/json": {"schema": {"$ref": _ref("CreditResponse")}},
                    NDJSON: {"schema": {"type": "string"}},
                },
            },
            **problems.openapi_responses(),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": _ref("CreditRequest")}}},
            }
        },
        summary="Credit rollouts",
    )
    async def credit(request: Request) -> Response:
        started = time.monotonic()
        status = 500
        try:
            body = await read_body(request, settings.max_body_bytes)
            batch = await _off_loop(len(body), parse, body, settings.max_rollouts)
            call = _Call(runtime, batch, started)
            if NDJSON in request.headers.get("accept", ""):
                begun = _Stream.begin(call)
                response: Response = await _until_disconnect(request.receive, begun)
            else:
                response = await _until_disconnect(request.receive, call.respond())
            status = response.status_code
        except ProblemError as error:
            status = error.problem.status
            raise
        finally:
            runtime.telemetry.requests.labels(str(status)).inc()
            runtime.telemetry.seconds.observe(time.monotonic() - started)
        return response

    @app.get("/health/live", summary="Whether the process runs")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get(
        "/health/ready",
        summary="Whether a request would be served",
        responses={
            503: {
                "description": "Loading, draining, or the engine is dead",
                "content": {problems.MEDIA_TYPE: {"schema": {"$ref": _ref("Problem")}}},
            }
        },
    )
    async def ready() -> dict[str, str]:
        if (problem := runtime.why_not_ready) is not None:
            raise problems.from_problem(problem)
        return {"status": "ready"}

    @app.get("/metrics", summary="Counters in Prometheus' form", response_class=Response)
    async def metrics() -> Response:
        return Response(runtime.telemetry.expose(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/info", dependencies=authorized, summary="The judge, the tokenizers, the limits")
    async def info() -> wire.Info:
        limits = {
            name: getattr(settings, name)
            for name in type(settings).model_fields
            if name.startswith("max_")
        }
        return wire.Info(
            version=version(),
            model=runtime.engine.model,
            engine=runtime.engine.kind,
            context_length=runtime.engine.context_length,
            critique_style=settings.critique_style,
            critique_format=settings.critique_format,
            tokenizers=runtime.tokenizers,
            voting_methods=list(get_args(wire.VotingMethod)),
            reward_schemes=list(get_args(wire.RewardScheme)),
            segment_methods=list(get_args(wire.SegmentMethod)),
            limits=limits,
        )

    @app.get("/", summary="Where things are")
    async def index() -> dict[str, str]:
        return {
            "service": f"capo-credit {version()}",
            "credit": "POST /credit",
            "description": "/openapi.json",
            "info": "/info",
            "ready": "/health/ready",
        }


class _Call:
    """One call of `POST /credit`: its results, and what is told beside them."""

    def __init__(self, runtime: Runtime, batch: Batch, started: float) -> None:
        self.id = f"cr_{secrets.token_hex(8)}"
        self.clock = Clock()
        self.answers = runtime.credit(batch, self.clock)
        self._model = runtime.engine.model
        self._count = len(batch.items)
        self._started = started
        self.usage = wire.Usage()

    def add(self, answer: Answer) -> None:
        if isinstance(answer, wire.Credited):
            self.usage += answer.usage

    def summary(self) -> wire.CreditSummary:
        return wire.CreditSummary(
            id=self.id,
            model=self._model,
            usage=self.usage,
            timing_ms=wire.Timing(
                queue=round(self.clock.queue * 1000, 3),
                engine=round(self.clock.engine * 1000, 3),
                total=round((time.monotonic() - self._started) * 1000, 3),
            ),
        )

    async def respond(self) -> Response:
        """All results at once.

        Raises:
            ProblemError: nothing was credited, and only because of the service.
        """
        results: list[Answer | None] = [None] * self._count
        async with aclosing(self.answers) as answers:
            async for position, answer in answers:
                results[position] = answer
                self.add(answer)
        done = [result for result in results if result is not None]
        failed = [result.error for result in done if isinstance(result, wire.Failed)]
        if len(failed) == len(done) and all(e.status in (429, 503, 504) for e in failed):
            raise problems.from_problem(max(failed, key=lambda problem: problem.status))
        whole = wire.CreditResponse.model_construct(**dict(self.summary()), results=done)
        tokens = sum(len(r.token_rewards or ()) for r in done if isinstance(r, wire.Credited))
        return Response(
            await _off_loop(16 * tokens, whole.model_dump_json), media_type="application/json"
        )


class _Stream(Response):
    """Results as NDJSON, each as it finishes, and the summary as the last line."""

    media_type = NDJSON

    def __init__(self, call: _Call, first: Answer) -> None:
        super().__init__(media_type=NDJSON, headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._call = call
        self._first = first

    @classmethod
    async def begin(cls, call: _Call) -> _Stream:
        """Wait for the first result, so that a refused request still gets its status."""
        _, first = await anext(call.answers)
        return cls(call, first)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._call.answers):
            await _until_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for line in self._lines():
            await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        self._call.add(self._first)
        yield self._first.model_dump_json().encode()
        async for _, answer in self._call.answers:
            self._call.add(answer)
            yield answer.model_dump_json().encode()
        yield self._call.summary().model_dump_json().encode()


async def _until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it when the caller hangs up. The body was read before."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise problems.error("internal", "the caller has hung up")
        return task.result()
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _off_loop(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Run CPU work, in a thread when its input is long."""
    if size <= _INLINE_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


def _ref(name: str) -> str:
    return f"#/components/schemas/{name}"


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        models = (wire.CreditRequest, "validation"), (wire.CreditResponse, "serialization")
        extra = (wire.CreditSummary, "serialization"), (wire.Problem, "serialization")
        _, definitions = models_json_schema(
            [*models, *extra],  # type: ignore[list-item]  # modes are literals
            ref_template="#/components/schemas/{model}",
        )
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        components.update(definitions["$defs"])
        for unused in ("HTTPValidationError", "ValidationError"):
            components.pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema
