"""The OpenAI engine against a scripted transport; tests/integration has a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from capo_service.core.verdicts.step_list import StepList
from capo_service.engine import openai, openai_start, openai_upstream
from capo_service.engine.base import (
    Completion,
    CritiqueFailedError,
    EngineBusyError,
    EngineDeadError,
    JudgePrompt,
)
from capo_service.engine.factory import make_engine
from capo_service.engine.openai import OpenAIEngine
from capo_service.settings import Settings
from kit_time import stepped
from kit_upstream import SHAPE, sampling

BACKOFF_SECONDS = openai_upstream._BACKOFF_SECONDS
JITTER = openai_upstream._JITTER
PROMPT = JudgePrompt((("Rules", True),), (("Q ", True), ("a<|im_end|>", False)))
SAMPLING = sampling()
CHOICE = {"message": {"content": "said"}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


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
        if isinstance(step, str):
            return httpx.Response(200, text=step)
        return httpx.Response(200, json=step or {"choices": [CHOICE], "usage": USAGE})


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_upstream, "_BACKOFF_SECONDS", 0.001)


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
    assert body["response_format"]["json_schema"]["schema"] == SHAPE.json_schema()
    await judge.close()


@pytest.mark.parametrize(
    "plan",
    [
        [429, 503],
        [httpx.ConnectError("x")],
        [httpx.ReadTimeout("x"), 429],
        [502, 504, 408],
        [500, 529],
        [520, 522, 525],
    ],
)
async def test_temporary_failures_are_retried(plan: list[Any]) -> None:
    upstream = Upstream(*plan)
    judge = await engine(upstream)
    assert (await judge.complete("c", judge.encode(PROMPT), SAMPLING)).text == "said"
    assert len(upstream.bodies) == len(plan) + 1
    await judge.close()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (429, EngineBusyError),
        (503, EngineDeadError),
        (400, CritiqueFailedError),
        (500, CritiqueFailedError),
        (529, EngineBusyError),
        (502, EngineDeadError),
        (504, EngineDeadError),
        (408, EngineDeadError),
        (521, EngineDeadError),
        (httpx.ConnectError("x"), EngineDeadError),
        ({"choices": []}, CritiqueFailedError),
        ({"nothing": 1}, CritiqueFailedError),
    ],
)
async def test_a_failure_that_lasts_raises_the_error_of_its_kind(
    step: Any, error: type[Exception]
) -> None:
    judge = await engine(Upstream(*[step] * 4))
    assert judge.status.ready
    with pytest.raises(error):
        await judge.complete("c", judge.encode(PROMPT), SAMPLING)
    assert judge.status.ready == (not isinstance(step, httpx.ConnectError))
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
    """Does not respond to probes while `silent`, as a stopped server."""

    silent = False

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.silent and request.url.path.endswith("/models"):
            raise httpx.ReadTimeout("silent")
        return await super().__call__(request)


@stepped
async def test_calls_to_a_server_that_stops_responding_fail() -> None:
    upstream = Silent("hang")
    judge = await engine(upstream)
    call = asyncio.create_task(judge.complete("one", judge.encode(PROMPT), SAMPLING))
    await asyncio.sleep(30)
    assert judge.status.ready and not call.done()  # slow, and there
    upstream.silent = True
    with pytest.raises(EngineDeadError, match="no longer responds"):
        await asyncio.wait_for(call, 5 * openai_upstream._PROBE_SECONDS)
    assert not judge.status.ready
    upstream.silent = False
    await asyncio.sleep(2 * openai_upstream._PROBE_SECONDS)
    assert judge.status.ready
    assert (await judge.complete("two", judge.encode(PROMPT), SAMPLING)).text == "said"
    await judge.close()


@stepped
async def test_a_server_too_busy_for_probes_that_responds_to_calls_is_not_lost() -> None:
    upstream = Silent("hang")
    judge = await engine(upstream)
    slow = asyncio.create_task(judge.complete("slow", judge.encode(PROMPT), SAMPLING))
    await asyncio.sleep(0)
    upstream.silent = True
    for number in range(40):
        await judge.complete(f"{number}", judge.encode(PROMPT), SAMPLING)
        await asyncio.sleep(openai_upstream._PROBE_SECONDS)
    assert judge.status.ready and not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await judge.close()


@pytest.mark.parametrize(
    ("models", "says"),
    [([{"id": "other"}], "has no model 'judge'; it has other"), (401, "refuses the API key")],
)
async def test_a_server_that_cannot_serve_the_judge_is_refused_at_the_start(
    models: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        await engine(Upstream(models=models))


@pytest.mark.parametrize("asked", [{}, {"tokenizer": "/no/such/folder"}, {"prompt_form": "tokens"}])
async def test_vllm_never_gets_chat_text_because_a_tokenizer_cannot_be_loaded(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str, *_: Any) -> None:
        raise ValueError(f"the tokenizer of {name} cannot be loaded: no route to the hub")

    monkeypatch.setattr(openai, "PromptEncoder", unreachable)
    upstream = Upstream(models=[{"id": "judge", "owned_by": "vllm", "root": "Qwen/Q"}])
    with pytest.raises(
        ValueError, match=r"no route.*loaded the judge from Qwen/Q.*prompt_form=chat"
    ):
        await engine(upstream, **asked)
    judge = await engine(upstream, prompt_form="chat")
    assert judge.encode(PROMPT).tokens is None
    await judge.close()


async def test_a_tokenizer_is_not_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"tokenizer=Qwen/Q would be ignored.*prompt_form=tokens"):
        await engine(Upstream(), tokenizer="Qwen/Q")
    caplog.set_level("INFO")
    judge = await engine(Upstream())
    assert "prompts are sent as chat text" in caplog.text
    await judge.close()


async def test_a_server_without_a_model_list_is_trusted() -> None:
    judge = OpenAIEngine("http://up", "judge", transport=httpx.MockTransport(Upstream(models=404)))
    limits = await judge.start()
    assert judge.status.ready and limits.context_length is None
    await judge.close()


async def test_retries_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    judge = await engine(Upstream(502, 502, 502))
    assert (await judge.complete("c", judge.encode(PROMPT), SAMPLING)).text == "said"
    assert caplog.text.count("upstream answers 502; retrying") == 1
    await judge.close()


def test_attempts_outlast_a_restart_of_a_second() -> None:
    """At the shortest of their jitter."""
    assert (
        sum(BACKOFF_SECONDS * 2**n * (1 - JITTER) for n in range(openai_upstream._ATTEMPTS - 1)) > 3
    )


async def test_500_means_a_dead_engine_if_the_server_is_not_ready() -> None:
    judge = await engine(Upstream(*[500] * 4))
    judge._upstream.ready = False
    with pytest.raises(EngineDeadError, match="answered 500"):
        await judge.complete("c", judge.encode(PROMPT), SAMPLING)
    await judge.close()


def message_answer(
    message: dict[str, Any], finish: Any = "stop", usage: Any = None
) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


async def critique_of(answer: Any, constraint: StepList | None = SHAPE) -> Completion:
    judge = await engine(Upstream(answer if isinstance(answer, str) else json.dumps(answer)))
    try:
        return await judge.complete("c", judge.encode(PROMPT), sampling(constraint=constraint))
    finally:
        await judge.close()


TEXT, THINKING = (
    {"type": "text", "text": "said"},
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
)
VERDICT = '{"incorrect_steps": [1]}'


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("content", [None, "", "\n", [], [THINKING], 0])
async def test_a_verdict_in_the_reasoning_field_is_read_or_reported(
    field: str, content: Any
) -> None:
    message = {"role": "assistant", "content": content}
    assert (
        await critique_of(message_answer({**message, field: f"Hm.</think>\n{VERDICT}"}))
    ).text.strip() == VERDICT
    if content != [THINKING]:
        assert (await critique_of(message_answer({**message, field: VERDICT}))).text == VERDICT
    for draft, constraint in [
        ("Maybe step 1.", SHAPE),
        (VERDICT, None),
        (f"Maybe {VERDICT}", SHAPE),
    ]:
        with pytest.raises(
            CritiqueFailedError, match=r"reasoning field .* without --reasoning-parser"
        ) as caught:
            await critique_of(message_answer({**message, field: draft}, usage=USAGE), constraint)
        assert caught.value.completion and caught.value.completion.completion_tokens == 3
    assert (await critique_of(message_answer({"content": "said", field: VERDICT}))).text == "said"


@pytest.mark.parametrize(
    "message",
    [{"content": None}, {"content": "", "reasoning_content": "Hm, step"}, {"content": [THINKING]}],
)
async def test_a_thought_up_to_the_token_limit_is_reported_with_the_remedy(
    message: dict[str, Any],
) -> None:
    with pytest.raises(
        CritiqueFailedError,
        match=r"up to its token limit of 3 tokens.*give it a thinking budget.*enable_thinking",
    ):
        await critique_of(message_answer(message, "length", USAGE))
    with pytest.raises(
        CritiqueFailedError, match=r"up to its token limit and .* raise voting.max_tokens"
    ):
        await critique_of(message_answer(message, "length"), None)


async def test_a_refusal_is_reported() -> None:
    with pytest.raises(CritiqueFailedError, match="the judge refused: I cannot"):
        await critique_of(message_answer({"content": None, "refusal": "I cannot"}))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [TEXT]}, "said"),
        ({"content": [THINKING, TEXT]}, "said"),
        ({"content": ["sa", {"type": "output_text", "text": "id"}]}, "said"),
        (
            {"content": [{"type": "thinking", "thinking": "hm"}, TEXT, {"type": "image"}, None, 3]},
            "said",
        ),
        ({"content": "\ud800x"}, "?x"),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": 3}, ""),
        ({"content": {"text": "x"}}, ""),
        ({"content": [{"type": "text", "text": None}]}, ""),
    ],
)
async def test_content_of_any_form_is_read(message: dict[str, Any], text: str) -> None:
    assert (await critique_of(message_answer(message))).text == text


NUMBERS = [
    ("9", 9),
    (9.0, 9),
    (float("nan"), 0),
    (float("inf"), 0),
    (-3, 0),
    (None, 0),
    ("many", 0),
    ([], 0),
    (10**400, 0),
    ("1e3", 1000),
]


@pytest.mark.parametrize(("number", "counted"), NUMBERS)
async def test_usage_of_any_form_is_counted(number: Any, counted: int) -> None:
    usage = {
        "prompt_tokens": number,
        "completion_tokens": number,
        "prompt_tokens_details": {"cached_tokens": number},
    }
    done = await critique_of(message_answer({"content": "x"}, None, usage))
    assert (done.prompt_tokens, done.cached_tokens, done.completion_tokens) == (
        counted,
        counted,
        counted,
    )


@pytest.mark.parametrize(
    "usage", [None, [], "many", 3, {"prompt_tokens_details": [1]}, {"prompt_tokens_details": "x"}]
)
@pytest.mark.parametrize("finish", [None, 3, {}, "", "stop"])
async def test_missing_usage_and_finish_reasons_are_no_failure(usage: Any, finish: Any) -> None:
    done = await critique_of(message_answer({"content": "x"}, finish, usage))
    assert (done.text, done.finish_reason, done.completion_tokens) == ("x", "stop", 0)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "<html>",
        "[]",
        "null",
        "3",
        '{"choices": null}',
        '{"choices": [null]}',
        '{"choices": {}}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": [1]}]}',
        '{"error": {"message": "x"}}',
        "[" * 100_000,
        "\xff",
        '{"choices": [{}]}',
    ],
)
async def test_a_response_without_a_completion_fails_one_critique(answer: str) -> None:
    with pytest.raises(CritiqueFailedError, match="upstream sent no"):
        await critique_of(answer)


async def test_an_upstream_behind_a_proxy_that_does_not_lead_there_names_proxy_and_variable() -> (
    None
):
    squid = httpx.Response(200, text="<html>squid")
    answers: list[Any] = [
        httpx.Response(503, text="x"),
        httpx.Response(403),
        squid,
        httpx.ConnectError("refused"),
    ]

    def serve(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer

    transport = httpx.MockTransport(serve)
    while answers:
        async with httpx.AsyncClient(base_url="http://judge:9/v1", transport=transport) as http:
            with pytest.raises(
                ValueError,
                match=r"through the proxy http://p:3128 \(HTTP_PROXY\).*add judge to NO_PROXY",
            ):
                await openai_start.model_card(http, "judge", "the proxy http://p:3128 (HTTP_PROXY)")


@pytest.mark.parametrize(
    ("variables", "upstream", "way"),
    [
        (
            {"HTTP_PROXY": "http://10.9.9.9:3128"},
            "http://10.1.2.3:8000",
            "through the proxy http://10.9.9.9:3128 (HTTP_PROXY)",
        ),
        (
            {"HTTP_PROXY": "http://10.9.9.9:3128", "NO_PROXY": "10.0.0.0/8"},
            "http://10.1.2.3:8000",
            "",
        ),
        ({"HTTP_PROXY": "http://10.9.9.9:3128"}, "http://127.0.0.1:8000", ""),
        ({"ALL_PROXY": "socks5://p:1"}, "http://localhost:8000", ""),
        ({"ALL_PROXY": "socks5://p:1"}, "http://judge:8000", "error"),
    ],
)
def test_serve_uses_the_proxies_of_the_environment(
    variables: dict[str, str],
    upstream: str,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = Settings(engine="openai", model="judge", upstream=upstream)
    if way == "error":
        with pytest.raises(ValueError, match=r"socks5://p:1 \(ALL_PROXY\) is a SOCKS proxy"):
            make_engine(given)
        return
    made = make_engine(given)
    assert isinstance(made, OpenAIEngine)
    assert made._upstream.proxy_name == way.removeprefix("through ")
