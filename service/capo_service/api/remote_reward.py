"""Routes for the remote reward clients that frameworks bring: OpenRLHF's and slime's.

They send texts and take one number a rollout: the mean of its rewards over characters. Options
stand in the URL (`/openrlhf?n=8&method=intersection`), since their clients send nothing of the
kind. What cannot be credited answers the whole request with its problem, so that no rollout is
trained on a number that was not computed. They send no mask: a tool's output in a response is
judged as the policy's own text, so rollouts with tools need an adapter that runs in the framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, ValidationError

import capo_wire as wire
from capo_service.api import problems
from capo_service.api.credit_response import Call, counted, until_disconnect
from capo_service.api.parsing import Batch, read_body
from capo_service.observability.metrics import Asked
from capo_service.pipeline.service import Runtime
from capo_service.scheduling.api_keys import ApiKey
from capo_wire.aggregate import agreement, columns, log_metrics, mean_reward
from capo_wire.answers import response_of
from capo_wire.labels import reference_of
from capo_wire.validation import first_error

M = TypeVar("M", bound=BaseModel)


class RemoteOptions(BaseModel):
    """What the URL may say; names and defaults are those of `POST /credit`."""

    model_config = ConfigDict(extra="forbid")

    method: wire.VotingMethod = "majority"
    n: int | None = None
    temperature: float = 0.7
    seed: int | None = None
    scheme: wire.RewardScheme = "capo"
    w_whole: float = 2.0
    w_process: float = 1.0
    segment: wire.SegmentMethod = "blank_line"
    show_reference: bool = True
    deadline_ms: int = 120_000

    def credit_options(self) -> wire.CreditOptions:
        """The same in the terms of `POST /credit`."""
        return wire.CreditOptions(
            voting=wire.Voting(
                method=self.method, n=self.n, temperature=self.temperature, seed=self.seed
            ),
            reward=wire.Reward(
                scheme=self.scheme, w_whole=self.w_whole, w_process=self.w_process
            ),
            segment=wire.Segment(method=self.segment),
            show_reference=self.show_reference,
            include=[],
            deadline_ms=self.deadline_ms,
        )  # fmt: skip


class OpenRLHFRequest(BaseModel):
    """What OpenRLHF's remote reward client sends: a query is prompt and response together."""

    query: list[str]
    prompts: list[str]
    labels: list[Any] | None = None


class OpenRLHFResponse(BaseModel):
    """What it reads: one number a query; `scores` are outcomes, for its dynamic filtering, or the
    rewards where there are none. OpenRLHF makes tensors of `extra_logs`, so a metric that is not
    known of one of the rollouts is left out for all."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class SlimeRequest(BaseModel):
    """What slime's `remote_rm` sends: one sample."""

    prompt: str | list[wire.ChatTurn]
    response: str
    label: Any = None


def _known(metrics: dict[str, list[float | None]]) -> dict[str, list[float]]:
    known = {name: [v for v in values if v is not None] for name, values in metrics.items()}
    return {name: values for name, values in known.items() if len(values) == len(metrics[name])}


def add_routes(app: FastAPI, runtime: Runtime) -> None:
    """Add the routes to the service."""
    may_credit = runtime.access.require("credit")
    answers: dict[int | str, dict[str, Any]] = problems.openapi_responses()

    async def credited(
        request: Request,
        key: ApiKey,
        rollouts: Sequence[wire.Rollout],
        options: RemoteOptions,
        asked: Asked,
    ) -> list[wire.Credited]:
        try:
            wanted = options.credit_options()
        except ValidationError as error:
            raise problems.error(
                "invalid-request", f"in the URL: {first_error(error)[1]}"
            ) from None
        if len(rollouts) > runtime.settings.max_rollouts:
            raise problems.error(
                "too-large",
                f"the request has {len(rollouts)} rollouts; this service takes "
                f"{runtime.settings.max_rollouts} (setting max_rollouts)",
                "query",
            )
        request.state.facts |= {"rollouts": len(rollouts), "key": key.name}
        ids = [str(number) for number in range(len(rollouts))]
        call = Call(runtime, Batch(wanted, ids, list(rollouts)), asked.at, key)
        results = await until_disconnect(request.receive, _all(call, len(rollouts)))
        asked.status = 200
        return results

    @app.post(
        "/openrlhf",
        summary="OpenRLHF's --reward.remote_url",
        responses=answers,
        openapi_extra=_body(OpenRLHFRequest),
    )
    async def openrlhf(
        request: Request, options: Annotated[RemoteOptions, Query()]
    ) -> OpenRLHFResponse:
        with counted(runtime.telemetry) as asked:
            key = may_credit(request)
            sent = await _read(request, OpenRLHFRequest, runtime)
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
            results = await credited(request, key, rollouts, options, asked)
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
        with counted(runtime.telemetry) as asked:
            key = may_credit(request)
            sent = await _read(request, SlimeRequest, runtime)
            by_text = isinstance(sent.prompt, str)
            prompt = {"question" if by_text else "messages": sent.prompt}
            rollout = _rollout(sent.label, response=sent.response, **prompt)
            [result] = await credited(request, key, [rollout], options, asked)
        return mean_reward(result)


async def _all(call: Call, count: int) -> list[wire.Credited]:
    """Every result, in order.

    Raises:
        ProblemError: one was not credited.
    """
    results: dict[int, wire.Credited] = {}
    async with aclosing(call.answers) as answers:
        async for position, answer in answers:
            if isinstance(answer, wire.Failed):
                raise problems.from_problem(answer.error)
            results[position] = answer
    return [results[position] for position in range(count)]


async def _read(request: Request, model: type[M], runtime: Runtime) -> M:
    body = await read_body(request, runtime.settings.max_body_bytes, runtime.settings.read_seconds)
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
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
