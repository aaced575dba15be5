"""Routes for the remote reward clients of OpenRLHF and slime.

These clients send texts and read one number per rollout: the mean of its rewards over characters.
They cannot send options, so options are in the URL (`/openrlhf?n=8&method=intersection`). If one
rollout cannot be credited, the whole request fails with its problem, so that no rollout is trained
on a made-up number. There is no mask: a tool's output in a response would be judged as the policy's
text, so rollouts with tools need an adapter that runs in the framework.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, ValidationError

import capo_wire as wire
from capo_service.api import problems
from capo_service.api.auth import require
from capo_service.api.credit_response import CreditCall, counted, until_disconnect
from capo_service.api.request_body import openapi_body, read_body
from capo_service.pipeline.batch import BatchCreditor
from capo_service.pipeline.service import Service
from capo_service.pipeline.types import RolloutBatch
from capo_service.scheduling.api_keys import ApiKey
from capo_wire.aggregate import agreement, columns, log_metrics, mean_reward
from capo_wire.answers import response_of
from capo_wire.labels import reference_of
from capo_wire.validation import first_error

M = TypeVar("M", bound=BaseModel)

_DEFAULTS = wire.CreditOptions()
_VOTING, _REWARD = _DEFAULTS.voting, _DEFAULTS.reward


class RemoteOptions(BaseModel):
    """Options in the URL; names and defaults are those of `POST /credit`."""

    model_config = ConfigDict(extra="forbid")

    method: wire.VotingMethod = _VOTING.method
    n: int | None = _VOTING.n
    temperature: float | None = _VOTING.temperature
    thinking_tokens: int | None = _VOTING.thinking_tokens
    seed: int | None = _VOTING.seed
    scheme: wire.RewardScheme = _REWARD.scheme
    w_whole: float = _REWARD.w_whole
    w_process: float = _REWARD.w_process
    segment: wire.SegmentMethod | None = None
    show_reference: bool = _DEFAULTS.show_reference
    deadline_ms: int = _DEFAULTS.deadline_ms

    def credit_options(self) -> wire.CreditOptions:
        """The options of `POST /credit`."""
        voting = wire.Voting(
            method=self.method,
            n=self.n,
            temperature=self.temperature,
            thinking_tokens=self.thinking_tokens,
            seed=self.seed,
        )
        reward = wire.Reward(scheme=self.scheme, w_whole=self.w_whole, w_process=self.w_process)
        return wire.CreditOptions(
            voting=voting,
            reward=reward,
            segment=wire.Segment(method=self.segment),
            show_reference=self.show_reference,
            include=[],
            deadline_ms=self.deadline_ms,
        )


class OpenRLHFRequest(BaseModel):
    """The request of OpenRLHF's remote reward client; a query is prompt and response together."""

    query: list[str]
    prompts: list[str]
    labels: list[Any] | None = None


class OpenRLHFResponse(BaseModel):
    """The response: one number per query. `scores` are the outcomes, for OpenRLHF's dynamic
    filtering, or the rewards if an outcome is unknown. OpenRLHF makes tensors of `extra_logs`, so a
    metric that is unknown for one rollout is left out for all."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class SlimeRequest(BaseModel):
    """The request of slime's `remote_rm`: one sample."""

    prompt: str | list[wire.ChatTurn]
    response: str
    label: Any = None


def _known(metrics: dict[str, list[float | None]]) -> dict[str, list[float]]:
    known = {name: [v for v in values if v is not None] for name, values in metrics.items()}
    return {name: values for name, values in known.items() if len(values) == len(metrics[name])}


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes to the service."""
    may_credit = require(service.keys, "credit")
    answers: dict[int | str, dict[str, Any]] = problems.openapi_responses()

    async def credited(
        request: Request,
        key: ApiKey,
        rollouts: Sequence[wire.Rollout],
        options: RemoteOptions,
        started: float,
    ) -> list[wire.Credited]:
        try:
            credit_options = options.credit_options()
        except ValidationError as error:
            raise problems.error(
                "invalid-request", f"in the URL: {first_error(error)[1]}"
            ) from None
        most = service.settings.max_rollouts
        if len(rollouts) > most:
            raise problems.error(
                "too-large",
                f"the request has {len(rollouts)} rollouts; this service accepts {most} "
                "(setting max_rollouts)",
                "query",
            )
        request.state.access = {"rollouts": len(rollouts), "key": key.name}
        ids = [str(number) for number in range(len(rollouts))]
        batch = RolloutBatch(credit_options, ids, rollouts)
        call = CreditCall(batch, key, service.backend.model, started)
        return await until_disconnect(request.receive, _all(call, service.creditor))

    @app.post(
        "/openrlhf",
        summary="OpenRLHF's --reward.remote_url",
        responses=answers,
        openapi_extra=_body(OpenRLHFRequest),
    )
    async def openrlhf(
        request: Request, options: Annotated[RemoteOptions, Query()]
    ) -> OpenRLHFResponse:
        return await counted(service.telemetry, answer_openrlhf(request, options))

    async def answer_openrlhf(request: Request, options: RemoteOptions) -> OpenRLHFResponse:
        started = time.monotonic()
        key = may_credit(request)
        sent = await _read(request, OpenRLHFRequest, service)
        labels = sent.labels or [None] * len(sent.query)
        if not len(sent.query) == len(sent.prompts) == len(labels) or not sent.query:
            raise problems.error(
                "invalid-request",
                "query, prompts and labels must be lists of one length, and not empty",
            )
        rollouts = [
            _rollout(label, question=prompt, response=_response(query, prompt))
            for query, prompt, label in zip(sent.query, sent.prompts, labels, strict=True)
        ]
        results = await credited(request, key, rollouts, options, started)
        outcomes = [result.outcome.value for result in results if result.outcome]
        rewards = [mean_reward(result) for result in results]
        return OpenRLHFResponse(
            rewards=rewards,
            scores=outcomes if len(outcomes) == len(results) else rewards,
            extra_logs=_known(columns([_metrics(result) for result in results])),
        )

    @app.post(
        "/slime",
        summary="slime's --rm-url",
        responses=answers,
        openapi_extra=_body(SlimeRequest),
    )
    async def slime(request: Request, options: Annotated[RemoteOptions, Query()]) -> float:
        return await counted(service.telemetry, answer_slime(request, options))

    async def answer_slime(request: Request, options: RemoteOptions) -> float:
        started = time.monotonic()
        key = may_credit(request)
        sent = await _read(request, SlimeRequest, service)
        prompt = {"question" if isinstance(sent.prompt, str) else "messages": sent.prompt}
        rollout = _rollout(sent.label, response=sent.response, **prompt)
        [result] = await credited(request, key, [rollout], options, started)
        return mean_reward(result)


async def _all(call: CreditCall, creditor: BatchCreditor) -> list[wire.Credited]:
    """Every result, in order.

    Raises:
        ProblemError: one was not credited.
    """
    results: dict[int, wire.Credited] = {}
    async with aclosing(creditor.credit(call.batch, call.key)) as answers:
        async for answer in answers:
            result = answer.result
            if isinstance(result, wire.Failed):
                raise problems.from_problem(result.error)
            results[answer.position] = result
    return [results[position] for position in range(len(call.batch.items))]


async def _read(request: Request, model: type[M], service: Service) -> M:
    body = await read_body(request, service.settings.max_body_bytes, service.settings.read_seconds)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        field, detail = first_error(error)
        raise problems.error("invalid-request", detail, field) from None


def _rollout(label: Any, **fields: Any) -> wire.Rollout:
    try:
        return wire.Rollout(reference=reference_of(label), **fields)
    except ValidationError as error:
        raise problems.error("invalid-rollout", first_error(error)[1]) from None
    except ValueError as error:
        raise problems.error("invalid-rollout", str(error), "label") from None


def _response(query: str, prompt: str) -> str:
    try:
        return response_of(query, prompt)
    except ValueError as error:
        raise problems.error("invalid-rollout", str(error), "query") from None


def _metrics(result: wire.Credited) -> dict[str, float]:
    wrong = sum(step.wrong for step in result.steps)
    return log_metrics(
        len(result.steps),
        wrong,
        agreement(result.steps),
        credited=True,
        suspicious=bool(result.suspicion),
    )


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return openapi_body(schema)
