"""The inspector: its static files, and the routes that only it uses."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.types import Scope

import capo_wire as wire
from capo_service import version
from capo_service.api import problems
from capo_service.api.auth import require
from capo_service.api.request_body import openapi_body, read_body
from capo_service.concurrency.cpu_thread import off_loop
from capo_service.core import alignment
from capo_service.pipeline.prepare import limit
from capo_service.pipeline.served_tokenizers import Vocabulary
from capo_service.pipeline.service import Service
from capo_service.scheduling.api_keys import ApiKey
from capo_wire.validation import first_error

_FOLDER = Path(__file__).parent.parent / "ui"
# Only this package's files; the page may call other services, to compare judges.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self' http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_EXAMPLES = ("stories.jsonl", "rollouts.jsonl")  # the first can be judged by the judge `demo`
_CONCURRENT = 4  # tokenize requests, because their thread also prepares rollouts
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Page(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the page at `/`, `POST /tokens` and `GET /live`."""
    settings = service.settings
    may_info, may_credit = require(service.keys, "info"), require(service.keys, "credit")

    @app.get("/", summary="The inspector in a browser; otherwise the paths of the service")
    async def index(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return FileResponse(_FOLDER / "index.html", headers=_HEADERS)
        return JSONResponse(
            {
                "service": f"capo-credit {version()}",
                "credit": "POST /credit",
                "description": "/openapi.json",
                "info": "/info",
                "ready": "/health/ready",
                "inspector": "/, in a browser",
            }
        )

    @app.get("/ui/examples.jsonl", include_in_schema=False)
    async def examples() -> Response:
        folder = files("capo_wire") / "examples"
        text = "".join((folder / name).read_text("utf-8") for name in _EXAMPLES)
        return Response(text, headers=_HEADERS, media_type="application/x-ndjson")

    app.mount("/ui", _Page(directory=_FOLDER), name="ui")

    @app.get("/live", summary="Recent activity of the service, for the live view")
    async def live(
        after: float = 0.0,
        key: ApiKey = Depends(may_info),  # noqa: B008  # an Annotated cannot name what is local here
    ) -> wire.Live:
        return service.live.seen_by(key, service.backend.model, after)

    free = asyncio.Semaphore(_CONCURRENT)

    @app.post(
        "/tokens",
        response_model=wire.Tokens,
        summary="Tokenize a text, or align token ids to their text",
        responses=problems.openapi_responses(),
        openapi_extra=openapi_body({"$ref": "#/components/schemas/TokensRequest"}),
    )
    async def tokens(request: Request) -> wire.Tokens:
        may_credit(request)
        body = await read_body(request, settings.max_body_bytes, settings.read_seconds)
        try:
            tokens_request = wire.TokensRequest.model_validate_json(body)
        except ValidationError as error:
            field, detail = first_error(error)
            raise problems.error("invalid-request", detail, field) from None
        vocabulary = service.vocabularies.get(tokens_request.tokenizer)
        if vocabulary is None:
            served = ", ".join(service.tokenizers) or "none"
            raise problems.error(
                "unknown-tokenizer",
                f"tokenizer {tokens_request.tokenizer!r} is not served; this service has {served}",
                "tokenizer",
            )
        if free.locked():
            raise problems.error(
                "queue-full", "too many concurrent /tokens requests; try again", Retry_After="1"
            )
        async with free:
            try:
                sizes = (
                    len(tokens_request.response or ""),
                    len(tokens_request.response_token_ids or ()),
                )
                limit("response", "characters", sizes[0], "max_characters", settings.max_characters)
                most = settings.max_response_tokens
                limit("response", "tokens", sizes[1], "max_response_tokens", most)
                return await off_loop(_place, vocabulary, tokens_request)
            except Exception as error:
                raise problems.from_error(error) from None


def _place(vocabulary: Vocabulary, tokens_request: wire.TokensRequest) -> wire.Tokens:
    ids = tokens_request.response_token_ids
    if ids is None:
        ids = vocabulary.encode(tokens_request.response or "")
    placed = alignment.align(vocabulary.table, ids, tokens_request.response)
    return wire.Tokens(
        response=placed.text,
        response_token_ids=ids,
        token_offsets=list(zip(placed.starts, placed.ends, strict=True)),
    )
