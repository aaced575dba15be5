"""The openai engine's own logic, against a scripted transport; a real server is in integration."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from capo_service.engine import openai
from capo_service.engine.base import (
    EngineBusyError,
    EngineDeadError,
    EngineError,
    Prompt,
    Sampling,
)
from capo_service.engine.openai import OpenAIEngine
from kit_time import stepped

PROMPT = Prompt((("Rules", True),), (("Q ", True), ("a<|im_end|>", False)))
SAMPLING = Sampling(0.7, 0.9, 64, 5, 'root ::= "x"', {"type": "object"})
CHOICE = {"message": {"content": "said"}, "finish_reason": "stop"}
USAGE = {
    "prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}
}  # fmt: skip


class Upstream:
    """A hosted API that lists its models and answers chat by plan."""

    def __init__(self, *plan: Any, models: Any = None) -> None:
        self.plan = list(plan)
        self.models = [{"id": "judge"}] if models is None else models
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            if isinstance(self.models, int):
                return httpx.Response(self.models)
            return httpx.Response(200, json={"data": self.models})
        self.bodies.append({"path": request.url.path, **json.loads(request.content)})
        step = self.plan.pop(0) if self.plan else None
        if isinstance(step, Exception):
            raise step
        if step == "hang":
            await asyncio.sleep(60)
        if isinstance(step, int):
            return httpx.Response(step, text="planned", headers={"Retry-After": "0"})
        return httpx.Response(200, json=step or {"choices": [CHOICE], "usage": USAGE})


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "_BACKOFF_SECONDS", 0.001)


async def engine(upstream: Upstream, **given: Any) -> OpenAIEngine:
    made = OpenAIEngine("http://up/v1/", "judge", transport=httpx.MockTransport(upstream), **given)
    await made.start()
    return made


async def test_chat_text_is_escaped_and_the_schema_sent() -> None:
    upstream = Upstream()
    judge = await engine(upstream)
    encoded = judge.encode(PROMPT)
    assert encoded.tokens is None
    done = await judge.complete("c", encoded, SAMPLING)
    assert (done.text, done.finish_reason) == ("said", "stop")
    assert (done.prompt_tokens, done.cached_tokens, done.completion_tokens) == (9, 4, 3)
    [body] = upstream.bodies
    assert body["path"] == "/v1/chat/completions" and body["seed"] == 5
    assert body["messages"][1]["content"] == "Q a<\u200b|im_end|>"
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    await judge.close()


@pytest.mark.parametrize(
    "plan", [[429, 503], [httpx.ConnectError("x")], [httpx.ReadTimeout("x"), 429]]
)
async def test_what_passes_is_tried_again(plan: list[Any]) -> None:
    upstream = Upstream(*plan)
    judge = await engine(upstream)
    assert (await judge.complete("c", judge.encode(PROMPT), SAMPLING)).text == "said"
    assert len(upstream.bodies) == len(plan) + 1
    await judge.close()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (429, EngineBusyError), (503, EngineDeadError), (400, EngineError), (500, EngineError),
        (httpx.ConnectError("x"), EngineDeadError), ({"choices": []}, EngineError),
        ({"nothing": 1}, EngineError),
    ],
)  # fmt: skip
async def test_what_does_not_pass_is_told_apart(step: Any, error: type[Exception]) -> None:
    judge = await engine(Upstream(*[step] * 4))
    assert judge.ready
    with pytest.raises(error):
        await judge.complete("c", judge.encode(PROMPT), SAMPLING)
    assert judge.ready == (not isinstance(step, httpx.ConnectError))
    await judge.close()


@stepped
async def test_a_critique_can_be_ended_early_or_cancelled() -> None:
    judge = await engine(Upstream("hang", "hang"))
    first = asyncio.create_task(judge.complete("one", judge.encode(PROMPT), SAMPLING))
    second = asyncio.create_task(judge.complete("two", judge.encode(PROMPT), SAMPLING))
    await asyncio.sleep(0.05)
    await judge.abort("one")
    assert (await first).finish_reason == "abort"
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    await judge.abort("unheard of")
    await judge.close()


class Silent(Upstream):
    """Answers nothing any more, once told so; as a server that was stopped."""

    silent = False

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.silent and request.url.path.endswith("/models"):
            raise httpx.ReadTimeout("silent")
        return await super().__call__(request)


@stepped
async def test_calls_to_a_server_that_fell_silent_do_not_wait_for_it() -> None:
    upstream = Silent("hang")
    judge = await engine(upstream)
    call = asyncio.create_task(judge.complete("one", judge.encode(PROMPT), SAMPLING))
    await asyncio.sleep(30)
    assert judge.ready and not call.done()  # slow, and there
    upstream.silent = True
    with pytest.raises(EngineDeadError, match="does not answer any more"):
        await asyncio.wait_for(call, 5 * openai._PROBE_SECONDS)
    assert not judge.ready
    upstream.silent = False
    await asyncio.sleep(2 * openai._PROBE_SECONDS)
    assert judge.ready
    assert (await judge.complete("two", judge.encode(PROMPT), SAMPLING)).text == "said"
    await judge.close()


@stepped
async def test_a_server_that_is_too_busy_for_probes_and_answers_calls_is_not_lost() -> None:
    upstream = Silent("hang")
    judge = await engine(upstream)
    slow = asyncio.create_task(judge.complete("slow", judge.encode(PROMPT), SAMPLING))
    await asyncio.sleep(0)
    upstream.silent = True
    for number in range(40):
        await judge.complete(f"{number}", judge.encode(PROMPT), SAMPLING)
        await asyncio.sleep(openai._PROBE_SECONDS)
    assert judge.ready and not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await judge.close()


@pytest.mark.parametrize(
    ("models", "says"),
    [([{"id": "other"}], "has no model 'judge'; it has other"), (401, "refuses our key")],
)
async def test_a_server_that_cannot_serve_the_judge_is_refused_at_the_start(
    models: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        await engine(Upstream(models=models))


async def test_a_server_without_a_model_list_is_trusted() -> None:
    judge = await engine(Upstream(models=404))
    assert judge.ready and judge.context_length is None
    await judge.close()
