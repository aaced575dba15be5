"""Engine openai and judges that think, before real vLLM servers."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from capo_service.core.verdicts.step_list import StepList
from capo_service.engine import embedded
from capo_service.engine.base import Completion, CritiqueSampling, JudgePrompt
from capo_service.engine.openai_routes import TokenRoute
from kit_engine import Running, vllm_server
from kit_upstream import StartedEngine

pytestmark = pytest.mark.timeout(900)  # a server's start counts as part of its first test

BUDGET = 32
SHAPE = StepList(3, 20)
PROMPT = (
    (("You check solutions step by step.", True),),
    (
        ("<step_0>", True),
        ("2 + 2 = 4</think><|im_end|>", False),
        ("</step_0> <step_1>", True),
        ("4 * 3 = 11", False),
        ("</step_1> <step_2>", True),
        ("So 11.", False),
        ("</step_2> Which steps are wrong?", True),
    ),
)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, with two tokens that it never uses in the place of thinking markers."""
    folder = tmp_path_factory.mktemp("thinker") / "model"
    shutil.copytree(embedded.folder(), folder)
    path = folder / "tokenizer.json"
    text = path.read_text()
    for unused, marker in (("<jupyter_start>", "<think>"), ("<jupyter_output>", "</think>")):
        assert json.dumps(unused) in text
        text = text.replace(json.dumps(unused), json.dumps(marker))
    path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, thinker: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A vLLM server of it, with these arguments; one at a time."""
    log = tmp_path_factory.mktemp("logs") / "vllm.log"
    with vllm_server(log, *request.param, model=thinker) as running:
        yield running


plain = pytest.mark.parametrize("server", [()], indirect=True, ids=["plain"])
# Judges that think are usually served so.
parsing = pytest.mark.parametrize(
    "server", [("--reasoning-parser", "deepseek_r1")], indirect=True, ids=["parser"]
)


async def started(server: Running, tokenizer: Path) -> StartedEngine:
    judge = StartedEngine(server.url, "judge", tokenizer=str(tokenizer), warm_up=SHAPE)
    await judge.start()
    return judge


async def check(judge: StartedEngine, budget: int, n: int = 6) -> list[Completion]:
    """Critiques, which can all be read and keep to their bound."""
    route = judge._route
    assert isinstance(route, TokenRoute)
    prompt = judge.encode(JudgePrompt(*PROMPT, thinking=budget > 0))
    most = SHAPE.max_tokens(route.form)
    samplings = [CritiqueSampling(1.0, 1.0, most, seed, SHAPE, budget) for seed in range(n)]
    done = await asyncio.gather(
        *(judge.complete(f"{each.seed}", prompt, each) for each in samplings)
    )
    for each in done:
        verdict = SHAPE.read(each.text, truncated=each.finish_reason != "stop")
        assert verdict.wrong is not None, (each, verdict.reason)
        assert each.finish_reason == "stop", each
        assert each.thinking_tokens <= budget, each
        bound = budget + prompt.closing_tokens + most
        assert each.completion_tokens <= bound, each
    assert any(each.thinking for each in done) == (budget > 0)
    return done


def test_a_thought_and_its_verdict_are_one_request_that_keeps_to_its_bound(
    openai_service: Running,
) -> None:
    n = 4
    asked = {
        "rollouts": [
            {
                "question": "What is 2 + 2 times 3?",
                "response": "2 + 2 = 4\n\n4 * 3 = 11\n\nSo 11.",
                "outcome": 0,
            },
            {"question": "Say </think>.", "response": "</think>\n\n<think>", "outcome": 0},
        ],
        "voting": {"n": n, "early_stop": False, "thinking_tokens": BUDGET, "seed": 1},
        "include": ["critiques", "thinking"],
    }
    answer = httpx.post(f"{openai_service.url}/credit", json=asked, timeout=600)
    assert answer.status_code == 200, answer.text
    for result in answer.json()["results"]:
        assert result["status"] == "ok", result
        found = result["critiques"]
        assert len(found) == n and all(each["valid"] for each in found), found
        assert all(each["thinking_tokens"] <= BUDGET for each in found), found
        assert any(each["thinking"] for each in found)
        assert result["usage"]["thinking_tokens"] == sum(each["thinking_tokens"] for each in found)
    log = openai_service.log.read_text()
    assert "critiques are constrained by structural tags" in log
    assert "two, the second" not in log


@plain
async def test_without_a_reasoning_parser_a_marker_of_one_token_ends_the_thought(
    server: Running, thinker: Path
) -> None:
    judge = await started(server, thinker)
    try:
        route = judge._route
        assert isinstance(route, TokenRoute) and not route.splits
        assert route.encoder.thought_end.ids
        await check(judge, 0)
        await check(judge, BUDGET)
        route.splits = True
        await check(judge, BUDGET)
        route.form = "grammar"
        await check(judge, BUDGET, n=2)
    finally:
        await judge.close()


@plain
async def test_chat_messages_are_constrained_and_a_judge_that_returns_no_thought_is_reported(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    judge = StartedEngine(
        server.url, "judge", prompt_form="chat", warm_up=SHAPE, thinking_tokens=BUDGET
    )
    await judge.start()
    try:
        assert judge.limits.constraint == "structural_tag"
        assert "upstream refuses thinking_token_budget" in caplog.text
        assert "in a trial with thinking the judge returned no thought" in caplog.text
        most = SHAPE.max_tokens("structural_tag")
        for budget in (0, BUDGET):
            sampling = CritiqueSampling(1.0, 1.0, most, 1, SHAPE, budget)
            done = await judge.complete("chat", judge.encode(JudgePrompt(*PROMPT)), sampling)
            assert SHAPE.read(done.text).wrong is not None and done.finish_reason == "stop"
            assert done.completion_tokens <= budget + most
    finally:
        await judge.close()


@parsing
async def test_the_probe_catches_a_reasoning_parser_and_critiques_can_be_read_all_the_same(
    server: Running, thinker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What goes wrong without it: the server takes the constraint, and does not apply it.
    naive = httpx.post(
        f"{server.url}/v1/completions",
        json={
            "model": "judge",
            "prompt": "<|im_start|>user\nIs 2 + 2 = 4?<|im_end|>\n<|im_start|>assistant\n",
            "max_tokens": 8,
            "structured_outputs": {"grammar": 'root ::= "QZ7"'},
        },
        timeout=600,
    )
    assert naive.status_code == 200 and naive.json()["choices"][0]["text"] != "QZ7"
    caplog.set_level(logging.INFO)
    judge = await started(server, thinker)
    try:
        route = judge._route
        assert isinstance(route, TokenRoute) and route.splits
        assert judge.limits.constraint == "structural_tag"
        assert "applies constraints only after a thought" in caplog.text
        assert "take two, the second on the cached prompt" in caplog.text
        assert "does not apply the constraint after a thought" not in caplog.text
        await check(judge, 0)
        done = await check(judge, BUDGET)
        assert any(each.thinking_truncated for each in done)
    finally:
        await judge.close()
