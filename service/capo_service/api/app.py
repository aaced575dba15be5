"""The FastAPI application: routes, auth, problem details, OpenAPI."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, get_args

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import capo_wire as wire
from capo_service import version
from capo_service.api import inspector, judge_prompts, problems, remote_reward
from capo_service.api.access_log import AccessLog
from capo_service.api.auth import require
from capo_service.api.credit_response import (
    NDJSON,
    CreditCall,
    by_size,
    counted,
    credit_json,
    credit_stream,
    until_disconnect,
)
from capo_service.api.parsing import parse
from capo_service.api.problems import ProblemError
from capo_service.api.request_body import openapi_body, read_body
from capo_service.engine.base import Engine
from capo_service.pipeline.critics import SymbolicCritic
from capo_service.pipeline.service import Service
from capo_service.settings import Settings
from capo_wire.validation import field_path, message_of

_NAMES = {404: "not-found", 405: "method-not-allowed"}


def create_app(
    settings: Settings,
    backend: Engine | SymbolicCritic,
    on_failure: Callable[[BaseException], None] | None = None,
    on_ready: Callable[[], None] | None = None,
    wait: bool = False,
) -> FastAPI:
    """The service around one judge.

    Args:
        settings: the service's settings.
        backend: runs the judge.
        on_failure: called once if the judge cannot be loaded.
        on_ready: called once when the judge is loaded.
        wait: whether start-up blocks until the judge is loaded. Otherwise requests get 503 until
            then.
    """
    service = Service(settings, backend, problems.explain, on_failure, on_ready)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start(wait)
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="capo-credit",
        version=version(),
        summary="Voted step and token rewards from a generative process reward model (CAPO).",
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(AccessLog)
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    _add_error_handlers(app)
    _add_routes(app, service)
    remote_reward.add_routes(app, service)
    inspector.add_routes(app, service)
    judge_prompts.add_routes(app, service)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, error: ProblemError) -> Response:
        return problems.response(error.problem, error.headers)

    async def on_domain_error(request: Request, error: Exception) -> Response:
        problem = problems.from_error(error)
        return problems.response(problem.problem, problem.headers)

    for kind in problems.DOMAIN_ERRORS:
        app.add_exception_handler(kind, on_domain_error)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        name = _NAMES.get(error.status_code, "internal")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return problems.response(problems.make(name, detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def on_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = field_path(first["loc"][1:])
        return problems.response(
            problems.make("invalid-request", f"in the URL, {field}: {message_of(first)}", field)
        )

    @app.exception_handler(Exception)
    async def on_failure(request: Request, error: Exception) -> Response:
        return problems.response(problems.explain(error))


def _add_routes(app: FastAPI, service: Service) -> None:
    settings, keys = service.settings, service.keys
    may_credit = require(keys, "credit")

    @app.post(
        "/credit",
        response_model=None,
        responses={
            200: {
                "description": "Results in request order. With `Accept: "
                f"{NDJSON}`: one result per line as each finishes, then a CreditSummary.",
                "content": {
                    "application/json": {"schema": {"$ref": _ref("CreditResponse")}},
                    NDJSON: {"schema": {"type": "string"}},
                },
            },
            **problems.openapi_responses(),
        },
        openapi_extra=openapi_body({"$ref": _ref("CreditRequest")}),
        summary="Credit rollouts",
    )
    async def credit(request: Request) -> Response:
        return await counted(service.telemetry, answer(request))

    async def answer(request: Request) -> Response:
        started = time.monotonic()
        key = may_credit(request)
        body = await read_body(request, settings.max_body_bytes, settings.read_seconds)
        batch = await by_size(len(body), parse, body, settings.max_rollouts)
        request.state.access = {"rollouts": len(batch.items), "key": key.name}
        call = CreditCall(batch, key, service.backend.model, started)
        if NDJSON in request.headers.get("accept", ""):
            streaming = credit_stream(call, service.creditor, settings.read_seconds)
            return await until_disconnect(request.receive, streaming)
        return await until_disconnect(request.receive, credit_json(call, service.creditor))

    def unavailable(when: str) -> dict[int | str, dict[str, Any]]:
        content = {problems.MEDIA_TYPE: {"schema": {"$ref": _ref("Problem")}}}
        return {503: {"description": when, "content": content}}

    @app.get(
        "/health/live",
        summary="Liveness probe: 503 means restart the process",
        responses=unavailable("The engine or a vital background task has failed permanently"),
    )
    async def live() -> dict[str, str]:
        if service.dead:
            raise service.failure
        return {"status": "live"}

    @app.get("/health", include_in_schema=False)  # vLLM's path, which load balancers know
    @app.get(
        "/health/ready",
        summary="Readiness probe: 503 gives the reason why requests are refused",
        responses=unavailable("Loading, draining, or the engine is dead"),
    )
    async def ready() -> dict[str, str]:
        if (reason := service.why_not_ready) is not None:
            raise reason
        return {"status": "ready"}

    @app.get(
        "/metrics",
        summary="Metrics in Prometheus' text format, including the engine's",
        response_class=Response,
        dependencies=[Depends(require(keys, "metrics"))] if settings.metrics_need_key else [],
    )
    async def metrics() -> Response:
        backend = await service.backend.metrics()
        return Response(service.telemetry.expose() + backend, media_type=CONTENT_TYPE_LATEST)

    @app.get(
        "/info",
        dependencies=[Depends(require(keys, "info"))],
        summary="Judge, tokenizers and limits of the service",
    )
    async def info() -> wire.Info:
        limits = {
            name: getattr(settings, name)
            for name in type(settings).model_fields
            if name.startswith("max_")
        } | {"max_running": service.admission.max_running}
        return wire.Info(
            version=version(),
            wire=wire.VERSION,
            model=service.backend.model,
            engine=service.backend.kind,
            context_length=service.context_length,
            critique_style=service.profile.style,
            critique_format=service.profile.format,
            profile=service.profile.name,
            template=service.template_digest,
            judge_digest=service.judge_digest,
            tokenizers=service.tokenizers,
            token_forms=list(wire.TOKEN_FORMS),
            voting_methods=list(get_args(wire.VotingMethod)),
            reward_schemes=list(get_args(wire.RewardScheme)),
            segment_methods=list(get_args(wire.SegmentMethod)),
            limits=limits,
            engine_limits=service.engine_limits,
        )


def _ref(name: str) -> str:
    return f"#/components/schemas/{name}"


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        models = (wire.CreditRequest, "validation"), (wire.CreditResponse, "serialization")
        extra = (
            (wire.CreditSummary, "serialization"),
            (wire.Problem, "serialization"),
            (wire.TokensRequest, "validation"),
        )
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
