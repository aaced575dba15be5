"""`POST /prompt`: the judge's prompt for a rollout, for the inspector."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request

import capo_wire as wire
from capo_service.api import problems
from capo_service.api.auth import require
from capo_service.api.parsing import parse
from capo_service.api.request_body import openapi_body, read_body
from capo_service.concurrency.cpu_thread import off_loop
from capo_service.pipeline.service import Service

_CONCURRENT = 4  # requests, because their thread also prepares rollouts


def add_routes(app: FastAPI, service: Service) -> None:
    """Add `POST /prompt`."""
    settings = service.settings
    may_credit = require(service.keys, "credit")
    free = asyncio.Semaphore(_CONCURRENT)

    @app.post(
        "/prompt",
        response_model=wire.Prompt,
        summary="The judge's prompt for one rollout, with another code; nothing is judged",
        responses=problems.openapi_responses(),
        openapi_extra=openapi_body({"$ref": "#/components/schemas/CreditRequest"}),
    )
    async def prompt(request: Request) -> wire.Prompt:
        may_credit(request)
        body = await read_body(request, settings.max_body_bytes, settings.read_seconds)
        if free.locked():
            raise problems.error(
                "queue-full", "too many concurrent /prompt requests; try again", Retry_After="1"
            )
        async with free:
            batch = await off_loop(parse, body, 1)
            rollout = batch.items[0]
            if isinstance(rollout, wire.Failed):
                raise problems.error("invalid-rollout", rollout.error.detail, rollout.error.field)
            try:
                return await off_loop(service.prompts.view, rollout, batch.options)
            except Exception as error:
                raise problems.from_error(error) from None
