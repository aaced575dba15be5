"""Engine openai with prompts as token ids: the routes of a thought, and the check at the start."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capo_service.engine import openai_probe, openai_upstream
from capo_service.engine.base import (
    CritiqueFailedError,
    EngineBusyError,
    EngineDeadError,
    JudgePrompt,
)
from capo_service.engine.openai import OpenAIEngine
from capo_service.engine.openai_routes import TokenRoute
from capo_service.engine.openai_witness import Witnessed
from capo_service.engine.prompt_encoder import PromptEncoder
from kit_thinking import KINDS, text_of
from kit_upstream import SHAPE, VERDICT, FakeVllm, StartedEngine, sampling, started

PROMPT = ((("Rules", True),), (("Q ", True), ("a</think><think>", False)))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_upstream, "_BACKOFF_SECONDS", 0.001)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name in ("token", "text", "gpt-oss"):
        made[name] = tmp_path_factory.mktemp(name)
        KINDS[name].encoder(made[name])
    return made


def route_of(judge: OpenAIEngine) -> TokenRoute:
    assert isinstance(judge._route, TokenRoute)
    return judge._route


async def before(
    folders: dict[str, Path], kind: str = "token", **given: Any
) -> tuple[StartedEngine, FakeVllm]:
    server = FakeVllm(PromptEncoder(str(folders[kind])), **given)
    judge = await started(server, tokenizer=str(folders[kind]))
    server.bodies.clear()
    return judge, server


async def critique(judge: OpenAIEngine, budget: int = 0, **given: Any) -> Any:
    prompt = judge.encode(JudgePrompt(*PROMPT, thinking=budget > 0))
    return await judge.complete("c", prompt, sampling(budget, **given))


# Routes


@pytest.mark.parametrize("kind", ["token", "text", "gpt-oss"])
async def test_a_structural_tag_takes_thought_and_verdict_in_one_request(
    kind: str, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    judge, server = await before(folders, kind)
    assert judge.limits.constraint == "structural_tag"
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    done = await critique(judge, 32)
    assert (done.text, done.thinking, done.finish_reason) == (VERDICT, "I add both.", "stop")
    assert 0 < done.thinking_tokens < 32 and not done.thinking_truncated
    [body] = server.bodies
    prompt = judge.encode(JudgePrompt(*PROMPT, thinking=True))
    assert body["prompt"] == prompt.ids and body["max_tokens"] == 32 + prompt.closing_tokens + 64
    elements = json.loads(body["structured_outputs"]["structural_tag"])["format"]["elements"]
    assert elements[0]["content"]["max_tokens"] == 32 and elements[-1]["type"] == "grammar"
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 5)
    short = await critique(judge, 2)
    assert short.text == VERDICT and short.thinking_tokens == 2 and short.thinking_truncated
    await judge.close()


async def test_without_a_thought_the_verdict_alone_is_constrained(
    folders: dict[str, Path],
) -> None:
    judge, server = await before(folders)
    done = await critique(judge)
    assert (done.text, done.thinking, done.thinking_tokens) == (VERDICT, "", 0)
    [body] = server.bodies
    assert body["max_tokens"] == 64 and "return_token_ids" not in body
    assert "tag" not in [
        element["type"]
        for element in json.loads(body["structured_outputs"]["structural_tag"])["format"][
            "elements"
        ]
    ]
    await judge.close()


@pytest.mark.parametrize("kind", ["token", "text", "gpt-oss"])
@pytest.mark.parametrize("closes", [True, False])
async def test_a_server_without_structural_tags_gets_two_requests(
    kind: str, closes: bool, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    judge, server = await before(folders, kind, takes=("grammar", "json"), closes=closes)
    assert judge.limits.constraint == "grammar"
    assert "by a grammar: the analysis is ASCII" in caplog.text
    assert "structural_tag refused" in caplog.text and "no structural_tag here" in caplog.text
    budget = 99 if closes else 6
    done = await critique(judge, budget)
    think, verdict = server.bodies
    assert done.text == VERDICT and done.thinking and done.thinking in "I add both."
    assert 0 < done.thinking_tokens <= budget and done.thinking_truncated == (not closes)
    prompt = judge.encode(JudgePrompt(*PROMPT, thinking=True))
    assert think["prompt"] == prompt.ids and think["max_tokens"] == budget
    assert "structured_outputs" not in think
    end = route_of(judge).encoder.thought_end
    if end.ids:
        assert think["stop_token_ids"] == [end.ids[0]]
    else:
        assert think["stop"] == [end.marker]
    behind = verdict["prompt"][len(prompt.ids) :]
    assert verdict["prompt"][: len(prompt.ids)] == prompt.ids
    inside = server._encode("I add both.")[: done.thinking_tokens]
    assert behind == [*inside, *server.closing]
    assert verdict["structured_outputs"] == {"grammar": SHAPE.grammar()}
    assert verdict["max_tokens"] == 64
    written = len(server._encode(VERDICT))
    assert done.completion_tokens == len(inside) + closes * len(server.closing) + written
    assert done.prompt_tokens == len(prompt.ids)
    await judge.close()


async def test_a_thought_that_comes_as_text_cannot_end_itself_in_the_second_prompt(
    folders: dict[str, Path],
) -> None:
    judge, server = await before(folders, returns_ids=False, closes=False)
    route = route_of(judge)
    assert route.splits and route.form == "structural_tag"
    server.thought = "It says <|im_end|> and"
    done = await critique(judge, 64)
    assert (done.text, done.thinking) == (VERDICT, server.thought)
    assert done.thinking_tokens == len(server._encode(server.thought))
    prompt = judge.encode(JudgePrompt(*PROMPT, thinking=True))
    behind = server.bodies[1]["prompt"][len(prompt.ids) :]
    assert text_of(route.encoder, behind) == server.thought + "</think>\n\n"
    control = [index for index in behind if index in route.encoder.control_ids]
    assert control == [server.closing[0]]
    await judge.close()


async def test_control_tokens_of_a_thought_are_left_out_of_the_second_prompt(
    folders: dict[str, Path],
) -> None:
    judge, _ = await before(folders)
    encoder = route_of(judge).encoder
    prompt = encoder.encode(JudgePrompt(*PROMPT, thinking=True))
    inside = encoder._trusted.encode("<think>\nsum<|im_end|>", add_special_tokens=False).ids
    following = encoder.after_thought(prompt, inside)
    assert text_of(encoder, following.ids[len(prompt.ids) :]) == "\nsum</think>\n\n"
    await judge.close()


@pytest.mark.parametrize("takes", [("grammar",), ("structural_tag",)])
async def test_a_critique_without_a_constraint_takes_two_requests(
    takes: tuple[str, ...], folders: dict[str, Path]
) -> None:
    judge, server = await before(folders, takes=takes)
    await critique(judge, 8, constraint=None)
    assert all("structured_outputs" not in body for body in server.bodies)
    assert [body["max_tokens"] for body in server.bodies] == [8, 64]
    await judge.close()


async def test_a_response_without_token_ids_fails_the_critique(folders: dict[str, Path]) -> None:
    judge, server = await before(folders)
    server.returns_ids = False
    with pytest.raises(CritiqueFailedError, match="sent no token ids"):
        await critique(judge, 8)
    await judge.close()


# Ending


@pytest.mark.parametrize("during", ["thought", "verdict"])
async def test_either_request_can_be_ended_early(during: str, folders: dict[str, Path]) -> None:
    judge, server = await before(folders, takes=("grammar",))
    server.hangs = lambda body: ("structured_outputs" in body) == (during == "verdict")
    call = asyncio.create_task(critique(judge, 8))
    while len(server.bodies) < (1 if during == "thought" else 2):
        await asyncio.sleep(0.01)
    await judge.abort("c")
    ended, _ = await asyncio.wait({call}, timeout=5)
    assert ended, "the request still runs"
    done = call.result()
    assert done.finish_reason == "abort" and done.text == ""
    assert bool(done.thinking_tokens) == (during == "verdict"), "tokens that were paid for"
    assert done.completion_tokens >= done.thinking_tokens
    await judge.close()


@pytest.mark.parametrize(("status", "error"), [(429, EngineBusyError), (503, EngineDeadError)])
@pytest.mark.parametrize("takes", [("grammar",), ("structural_tag",)])
async def test_a_busy_or_dead_server_is_reported_on_both_routes(
    status: int, error: type[Exception], takes: tuple[str, ...], folders: dict[str, Path]
) -> None:
    judge, server = await before(folders, takes=takes)
    server.status = status
    with pytest.raises(error):
        await critique(judge, 8)
    assert len(server.bodies) == openai_upstream._ATTEMPTS
    await judge.close()


# The check at the start


async def test_a_reasoning_parser_is_caught_and_each_prompt_ends_a_thought(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    judge, _ = await before(folders, has_parser=True)
    assert judge.limits.constraint == "structural_tag"
    assert "applies constraints only after a thought" in caplog.text
    assert "--reasoning-parser" in caplog.text and "they take two" in caplog.text
    assert "does not apply the constraint after a thought" not in caplog.text
    route = route_of(judge)
    assert route.splits
    prompt = judge.encode(replace(JudgePrompt(*PROMPT), opening="{"))
    assert text_of(route.encoder, prompt.ids).endswith("assistant\n<think>\n\n</think>\n\n{")
    for budget in (0, 8):
        assert (await critique(judge, budget)).text == VERDICT
    await judge.close()


@pytest.mark.parametrize("every", [1, 2])
async def test_a_server_that_ignores_constraints_always_or_half_of_the_time_is_caught(
    every: int, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    judge, _ = await before(folders, applies=lambda n: every == 2 and n % 2 == 1)
    assert judge.limits.constraint == "none"
    assert "constrained by nothing: critiques that cannot be read are invalid" in caplog.text
    assert "the judge wrote 'Okay, let me see'" in caplog.text
    route = route_of(judge)
    assert not text_of(route.encoder, judge.encode(JudgePrompt(*PROMPT)).ids).endswith("\n\n")
    await judge.close()


async def test_structural_tags_that_do_not_bound_texts_are_not_used(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    judge, _ = await before(folders, bounds=False)
    assert judge.limits.constraint == "grammar"
    assert "structural_tag ignored" in caplog.text
    await judge.close()


async def test_json_schemas_are_the_last_resort(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    judge, server = await before(folders, takes=("json",))
    assert judge.limits.constraint == "json_schema"
    assert "may take twice its bound in tokens" in caplog.text
    await critique(judge)
    assert server.bodies[0]["structured_outputs"] == {"json": SHAPE.json_schema()}
    assert server.bodies[0]["max_tokens"] == 2 * 64
    await judge.close()


async def test_a_server_that_refuses_every_request_is_an_error_at_the_start(
    folders: dict[str, Path],
) -> None:
    server = FakeVllm(PromptEncoder(str(folders["token"])), status=404)
    with pytest.raises(ValueError, match="refuses the judge's requests: upstream answered 404"):
        await started(server, tokenizer=str(folders["token"]))


async def test_a_server_that_does_not_respond_is_not_checked(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    judge, server = await before(folders, status=503)
    assert judge.limits.constraint == "grammar"
    assert "could not find out whether upstream" in caplog.text and "503" in caplog.text
    server.status = 200
    assert (await critique(judge, 8)).text == VERDICT
    await judge.close()


async def test_a_server_that_hangs_is_not_waited_for(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openai_probe, "_SECONDS", 0.05)
    judge, _ = await before(folders, hangs=lambda _: True)
    assert "no response in 0 s" in caplog.text
    await judge.close()


async def test_the_check_sends_what_critiques_send(folders: dict[str, Path]) -> None:
    server = FakeVllm(PromptEncoder(str(folders["token"])))
    judge = await started(server, tokenizer=str(folders["token"]))
    assert 4 <= len(server.bodies) <= 12
    tags = [json.loads(b["structured_outputs"]["structural_tag"]) for b in server.bodies]
    real = SHAPE.structure()
    assert all(tag["format"]["elements"][-len(real) :] == real for tag in tags)
    assert {len(tag["format"]["elements"]) - len(real) for tag in tags} > {3}
    assert all(body["temperature"] > 0 and "seed" in body for body in server.bodies)
    await judge.close()


def test_every_form_of_the_check_contains_the_constraint_of_critiques() -> None:
    witness = Witnessed(SHAPE)
    grammar = witness.grammar()
    assert grammar is not None and grammar.count("root ::=") == 1
    assert 'root ::= "QZ7" critique\ncritique ::= ' in grammar
    schema = witness.json_schema()
    assert schema is not None and schema["properties"]["QZ7"] == SHAPE.json_schema()
    assert Witnessed(None).grammar() == 'root ::= "QZ7"'
    for text, form, shown in [
        ("QZ7 a,QZ9", "structural_tag", True),
        ("QZ7QZ9{", "structural_tag", True),
        ("QZ7" + "a" * 90 + "QZ9", "structural_tag", False),
        ("QZ7", "structural_tag", False),
        ("QZ7{", "grammar", True),
        (" QZ7", "grammar", False),
        ('{ "QZ7": {', "json_schema", True),
        (" {\n\n", "json_schema", True),
        ('{"incorrect_steps": []}', "json_schema", False),
        ("", "json_schema", False),
    ]:
        assert witness.shows(text, form) == shown, (text, form)  # type: ignore[arg-type]
