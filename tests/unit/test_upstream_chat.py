"""Engine openai with chat messages: thoughts apart, and parameters that a model refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from capo_service.core.verdicts.boxed_steps import BoxedSteps
from capo_service.engine.base import Completion, CritiqueFailedError, JudgePrompt
from capo_service.engine.openai import OpenAIEngine
from capo_service.settings import Settings
from kit_upstream import SHAPE, VERDICT, Hosted, said, sampling, started, verdict_for

PROMPT = JudgePrompt((("Rules", True),), (("Q", True),))
MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead."
)
TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) "
    "value is supported."
)


def refusing(**refused: Any) -> Callable[[dict[str, Any]], httpx.Response]:
    """A server that refuses a request with one of these parameters, with that body."""

    def reply(body: dict[str, Any]) -> httpx.Response:
        for name, answer in refused.items():
            if name in body:
                status = 422 if isinstance(answer, dict) and "detail" in answer else 400
                return httpx.Response(status, json=answer)
        return said(verdict_for(body), reasoning_content="I add.")

    return reply


def openai_error(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param}}


async def critique(judge: OpenAIEngine, budget: int = 0, **given: Any) -> Completion:
    return await judge.complete("c", judge.encode(PROMPT), sampling(budget, **given))


# What is sent


async def test_the_limit_holds_thought_and_verdict_and_the_effort_is_passed_through() -> None:
    server = Hosted(refusing())
    judge = await started(server, reasoning_effort="minimal", thinking_tokens=1000)
    assert judge.limits.constraint == "json_schema"
    server.bodies.clear()
    await critique(judge, 1000)
    [body] = server.bodies
    assert body["max_tokens"] == 1000 + 2 * 64 and body["reasoning_effort"] == "minimal"
    assert "chat_template_kwargs" not in body and "thinking_token_budget" not in body
    assert body["response_format"]["json_schema"]["schema"] == SHAPE.json_schema()
    await judge.close()


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
@pytest.mark.parametrize("budget", [0, 100])
async def test_servers_with_chat_templates_are_told_whether_to_think(
    owner: str, budget: int
) -> None:
    server = Hosted(lambda _: said("QZ7aQZ9 QZ7", reasoning="I add."), owner)
    judge = await started(server, prompt_form="chat", template_kwargs={"thinking": "own"})
    server.bodies.clear()
    await critique(judge, budget)
    [body] = server.bodies
    assert body["chat_template_kwargs"] == {"enable_thinking": budget > 0, "thinking": "own"}
    assert ("thinking_token_budget" in body) == (owner == "vllm" and budget > 0)
    assert ("structured_outputs" in body) == (owner == "vllm")
    await judge.close()


# What comes back


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_a_thought_apart_is_the_thinking_of_the_critique(field: str) -> None:
    usage = {"completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 40}}
    judge = await started(Hosted(lambda _: said(VERDICT, usage=usage, **{field: " I add. "})))
    done = await critique(judge, 100)
    assert (done.text, done.thinking, done.thinking_tokens) == (VERDICT, "I add.", 40)
    assert done.completion_tokens == 50 and not done.thinking_truncated
    await judge.close()


async def test_without_a_count_a_thoughts_tokens_are_estimated() -> None:
    usage = {"completion_tokens": 100}
    thought = "x" * 3 * len(VERDICT)
    judge = await started(Hosted(lambda _: said(VERDICT, usage=usage, reasoning=thought)))
    assert (await critique(judge, 100)).thinking_tokens == 75
    await judge.close()


async def test_a_model_may_count_a_thought_that_it_does_not_show() -> None:
    usage = {"completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 40}}
    judge = await started(Hosted(lambda _: said(VERDICT, usage=usage)))
    done = await critique(judge, 100)
    assert (done.thinking, done.thinking_tokens) == ("", 40)
    await judge.close()


@pytest.mark.parametrize("budget", [0, 100])
async def test_a_thought_in_the_content_is_taken_apart_where_the_judge_is_to_think(
    budget: int,
) -> None:
    text = f"<think>\nI add.\n</think>\n\n{VERDICT}"
    judge = await started(Hosted(lambda _: said(text)))
    done = await critique(judge, budget)
    if budget:
        assert (done.text.strip(), done.thinking) == (VERDICT, "I add.")
    else:
        assert (done.text, done.thinking) == (text, "")
    assert SHAPE.read(done.text).wrong == {1}
    await judge.close()


@pytest.mark.parametrize("latex", ["", "\\sum "])
async def test_a_marker_that_a_verdict_or_a_thought_quotes_ends_no_thought(latex: str) -> None:
    quoting = f'{{"analysis": "{latex}It ends in </think> {{}}", "incorrect_steps": [1]}}'
    judge = await started(Hosted(lambda _: said(quoting)))
    done = await critique(judge, 100)
    assert (done.text, done.thinking) == (quoting, "") and SHAPE.read(done.text).wrong == {1}
    await judge.close()
    judge = await started(
        Hosted(lambda _: said(None, "length", reasoning=f"It ends in </think>{VERDICT}"))
    )
    with pytest.raises(CritiqueFailedError, match="thought up to its token limit"):
        await critique(judge, 100)
    await judge.close()


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (100, r"raise its thinking budget of 100 tokens \(thinking_tokens\), or lower reasoning_e"),
        (0, r"give it a thinking budget \(thinking_tokens\), or turn thinking off"),
    ],
)
async def test_a_thought_up_to_the_limit_is_an_invalid_critique_that_says_what_to_change(
    budget: int, told: str
) -> None:
    usage = {"completion_tokens": 164, "completion_tokens_details": {"reasoning_tokens": 164}}
    server = Hosted(lambda _: said(None, "length", usage, reasoning="I add"))
    judge = await started(server, thinking_tokens=budget)
    with pytest.raises(CritiqueFailedError, match=f"limit of 164 tokens.*{told}") as caught:
        await critique(judge, budget)
    done = caught.value.completion
    assert done is not None and done.thinking_truncated
    assert (done.thinking, done.thinking_tokens, done.completion_tokens) == ("I add", 164, 164)
    await judge.close()


async def test_a_judge_that_thinks_although_it_is_not_to_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    judge = await started(Hosted(refusing()), warm_up=None)
    for _ in range(3):
        assert (await critique(judge)).text == VERDICT
    assert caplog.text.count("thinks although thinking_tokens is 0") == 1
    await judge.close()
    judge = await started(Hosted(refusing()), warm_up=None)
    caplog.clear()
    await critique(judge, 100)
    assert "thinks although" not in caplog.text
    await judge.close()


# What is refused

REFUSALS = [
    ("max_tokens", openai_error(MAX_TOKENS, "max_tokens")),
    ("temperature", openai_error(TEMPERATURE, "temperature")),
    ("temperature", openai_error("invalid temperature: only 1 is allowed for this model")),
    ("top_p", openai_error("`temperature` and `top_p` cannot both be specified for this model.")),
    ("seed", [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}]),
    (
        "seed",
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]},
    ),
    (
        "seed",
        {
            "object": "error",
            "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]},
            "detail": "invalid",
        },
    ),
]


@pytest.mark.parametrize(("name", "answer"), REFUSALS)
@pytest.mark.parametrize("at_start", [True, False])
async def test_a_refused_parameter_is_left_out_from_then_on(
    name: str, answer: Any, at_start: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = Hosted(refusing(**{name: answer}))
    judge = await started(server, warm_up=SHAPE if at_start else None)
    for _ in range(3):
        assert (await critique(judge)).text == VERDICT
    assert sum(name in body for body in server.bodies) == 1, "asked once"
    assert caplog.text.count(f"upstream refuses {name};") == 1
    others = {"max_tokens", "temperature", "top_p", "seed"} - {name}
    assert others <= server.bodies[-1].keys()
    if name == "max_tokens":
        assert server.bodies[-1]["max_completion_tokens"] == 2 * 64
    await judge.close()


async def test_what_concurrent_critiques_learn_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Hosted(refusing(seed=openai_error("Unsupported parameter: 'seed'")))
    judge = await started(server, warm_up=None)
    prompt = judge.encode(PROMPT)
    names = [f"c{number}" for number in range(4)]
    server.at_once = len(names)
    done = await asyncio.gather(*(judge.complete(name, prompt, sampling()) for name in names))
    assert all(each.text == VERDICT for each in done)
    assert sum("seed" in body for body in server.bodies) == len(names)
    assert caplog.text.count("upstream refuses seed;") == 1
    await judge.close()


async def test_all_that_a_model_refuses_is_learned_one_by_one() -> None:
    refused = {
        name: openai_error(f"Unsupported parameter: '{name}'")
        for name in ("max_tokens", "temperature", "top_p", "seed")
    }
    server = Hosted(refusing(**refused))
    judge = await started(server)
    server.bodies.clear()
    await critique(judge, 10)
    [body] = server.bodies
    assert body["max_completion_tokens"] == 10 + 2 * 64
    assert not refused.keys() & body.keys()
    await judge.close()


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 9000. This model supports at most 4096 completion tokens",
        "This model's maximum context length is 4096 tokens; your messages and max_tokens exceed it",
        "max_tokens of 9000 exceeds the maximum that is allowed",
        "Invalid request",
    ],
)
async def test_other_refusals_are_errors_of_the_critique(message: str) -> None:
    server = Hosted(refusing(max_tokens=openai_error(message)))
    judge = await started(server, warm_up=None)
    with pytest.raises(CritiqueFailedError, match="upstream answered 400"):
        await critique(judge)
    assert len(server.bodies) == 1
    await judge.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"reasoning_effort": "none"},
            "Unsupported value: 'reasoning_effort' does not support 'none' with this model.",
        ),
        (
            {"template_kwargs": {"x": 1}},
            "property 'chat_template_kwargs' is unsupported",
        ),
    ],
)
async def test_what_the_operator_set_is_not_left_out(given: Any, message: str) -> None:
    names = {"reasoning_effort": "reasoning_effort", "template_kwargs": "chat_template_kwargs"}
    name = names[next(iter(given))]
    server = Hosted(refusing(**{name: openai_error(message)}))
    with pytest.raises(
        ValueError, match=f"refuses the judge's requests.*change the setting {name}, or unset it"
    ):
        await started(server, **given)


async def test_switches_that_a_server_does_not_know_are_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Hosted(refusing(chat_template_kwargs=openai_error("chat_template_kwargs?")), "sglang")
    judge = await started(server)
    await critique(judge)
    assert "chat_template_kwargs" not in server.bodies[-1]
    assert "the server's own settings decide whether the judge thinks" in caplog.text
    await judge.close()


async def test_keywords_that_a_server_refuses_in_a_schema_are_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def reply(body: dict[str, Any]) -> httpx.Response:
        schema = json.dumps(body["response_format"])
        if "maxLength" in schema:
            told = "Invalid schema for response_format 'verdict': 'maxLength' is not permitted."
            return httpx.Response(400, json=openai_error(told))
        return said(verdict_for(body))

    server = Hosted(reply)
    judge = await started(server)
    assert judge.limits.constraint == "json_schema"
    await critique(judge)
    schema = server.bodies[-1]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["analysis"] == {"type": "string"}
    assert "maxItems" in schema["properties"]["incorrect_steps"]
    assert caplog.text.count("refuses maxLength in a JSON schema") == 1
    await judge.close()


# The check at the start


async def test_a_server_without_json_schemas_is_told_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = openai_error("This response_format type is unavailable now")
    judge = await started(Hosted(refusing(response_format=told)))
    assert judge.limits.constraint == "none"
    assert "constrained by nothing" in caplog.text and "unavailable now" in caplog.text
    assert (await critique(judge)).text == VERDICT
    await judge.close()


async def test_a_verdict_that_has_no_schema_is_not_constrained(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Hosted(refusing())
    judge = await started(server, warm_up=BoxedSteps(3, 20, 512))
    assert judge.limits.constraint == "none"
    assert "this form of verdict has no JSON schema" in caplog.text
    assert all("response_format" not in body for body in server.bodies)
    await judge.close()


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (lambda body: said(verdict_for(body), reasoning="I add."), None),
        (lambda body: said(verdict_for(body)), "returned no thought, so thinking_tokens has no"),
        (lambda _: said(None, "length", reasoning="I add"), "thought to its limit, so its verdict"),
        (lambda _: said("Okay.", reasoning="I add."), "gave no constrained verdict after a thou"),
    ],
)
async def test_a_judge_that_is_to_think_is_asked_to_at_the_start(
    reply: Any, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    server = Hosted(reply)
    judge = await started(server, thinking_tokens=4096)
    in_trial = [record for record in caplog.records if "in a trial" in record.getMessage()]
    assert len(in_trial) == (told is not None)
    assert told is None or told in caplog.text
    assert max(body["max_tokens"] for body in server.bodies) < 1000, "a trial is cheap"
    await judge.close()


async def test_a_judge_that_always_thinks_is_checked_with_a_budget(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def reply(body: dict[str, Any]) -> httpx.Response:
        if body["max_tokens"] < 256:
            return said(None, "length", reasoning="I add")
        return said(verdict_for(body), reasoning="I add.")

    judge = await started(Hosted(reply), thinking_tokens=4096)
    assert judge.limits.constraint == "json_schema"
    assert "not checked" not in caplog.text
    await judge.close()
    judge = await started(Hosted(reply))
    assert judge.limits.constraint == "json_schema"
    assert "not checked, because the judge gave no verdict" in caplog.text
    assert "give it a thinking budget" in caplog.text
    await judge.close()


async def test_free_text_of_a_judge_that_does_not_think_needs_no_check() -> None:
    server = Hosted(refusing())
    judge = await started(server, warm_up=None)
    assert not server.bodies
    await judge.close()


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh"])
def test_any_effort_can_be_set(effort: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPO_REASONING_EFFORT", effort)
    given = Settings(engine="openai", model="judge", upstream="http://up")
    assert given.reasoning_effort == effort
