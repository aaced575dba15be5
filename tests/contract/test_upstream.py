"""The service before an OpenAI-compatible server whose answers are not as they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from capo_service.engine import openai_upstream
from capo_service.engine.openai import OpenAIEngine
from kit_service import body, serving, settings

VERDICT = '{"incorrect_steps": [1]}'


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_upstream, "_BACKOFF_SECONDS", 0.001)


def upstream(answer: Callable[[], httpx.Response]) -> OpenAIEngine:
    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "judge"}]})
        return answer()

    return OpenAIEngine("http://up", "judge", transport=httpx.MockTransport(serve))


def message(said: dict[str, Any], **more: Any) -> httpx.Response:
    choice = {"message": {"role": "assistant", **said}, "finish_reason": "stop", **more}
    return httpx.Response(
        200, text=json.dumps({"choices": [choice], "usage": {"completion_tokens": "7"}})
    )


def credited(engine: OpenAIEngine, folder: Path, **given: Any) -> dict[str, Any]:
    with serving(engine, settings(folder, **given)) as service:
        asked = body(include=["critiques"], voting={"n": 2, "early_stop": False})
        answer = httpx.post(f"{service.url}/credit", json=asked)
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["results"]
    assert isinstance(found, dict)
    return found


def test_a_whole_verdict_in_the_reasoning_field_votes(tmp_path: Path) -> None:
    engine = upstream(lambda: message({"content": None, "reasoning_content": VERDICT}))
    result = credited(engine, tmp_path)
    assert [step["wrong"] for step in result["steps"]] == [False, True]
    assert result["usage"]["completion_tokens"] == 14


@pytest.mark.parametrize(
    ("said", "finish", "told"),
    [
        ({"content": None, "reasoning_content": "Step 1 is wrong."}, "stop", "--reasoning-parser"),
        ({"content": "", "reasoning": "Step 1 is"}, "length", "thinking budget"),
        ({"content": None, "reasoning_content": f"Maybe {VERDICT}"}, "stop", "--reasoning-parser"),
    ],
)
def test_the_operator_is_told_why_no_verdict_came(
    said: dict[str, Any], finish: str, told: str, tmp_path: Path
) -> None:
    result = credited(upstream(lambda: message(said, finish_reason=finish)), tmp_path)
    assert result["error"]["status"] == 502 and told in result["error"]["detail"]


@pytest.mark.parametrize(
    "content", [[{"type": "text", "text": VERDICT}], "\ud800" + "</think>" + VERDICT]
)
def test_content_in_parts_and_text_that_is_no_unicode_are_no_500(
    content: Any, tmp_path: Path
) -> None:
    result = credited(upstream(lambda: message({"content": content}, finish_reason=3)), tmp_path)
    assert [step["wrong"] for step in result["steps"]] == [False, True]


@pytest.mark.parametrize("status", [408, 500, 502, 504, 520, 525, 529])
def test_an_upstream_that_restarts_loses_no_rollout(status: int, tmp_path: Path) -> None:
    planned = [status] * 3

    def answer() -> httpx.Response:
        return httpx.Response(planned.pop()) if planned else message({"content": VERDICT})

    assert credited(upstream(answer), tmp_path)["steps"][1]["wrong"]


@pytest.mark.parametrize("status", [408, 502, 504, 522, 529])
def test_one_that_does_not_come_back_is_an_error_that_clients_try_again(
    status: int, tmp_path: Path
) -> None:
    engine = upstream(lambda: httpx.Response(status))
    with serving(engine, settings(tmp_path)) as service:
        answer = httpx.post(f"{service.url}/credit", json=body())
    assert answer.status_code in (429, 503) and str(status) in answer.json()["detail"]


DRAFT = "<think>\nMaybe this:\n<incorrect_steps>0</incorrect_steps>\n"
OWN = "Step 1.</think>\n<incorrect_steps>1</incorrect_steps>"


def test_a_draft_in_a_thought_in_the_content_is_no_verdict(tmp_path: Path) -> None:
    def asked(content: str, **given: Any) -> dict[str, Any]:
        engine = upstream(lambda: message({"content": content}))
        return credited(engine, tmp_path, critique_format="tag", **given)

    assert "reasoning was not ended" in asked(DRAFT)["error"]["detail"]
    result = asked(DRAFT + OWN)
    assert [step["wrong"] for step in result["steps"]] == [False, True]
    assert result["critiques"][0]["text"].startswith("<think>\nMaybe")
    result = asked(DRAFT + OWN, thinking_tokens=64)
    assert [step["wrong"] for step in result["steps"]] == [False, True]
    assert result["critiques"][0]["text"].strip() == "<incorrect_steps>1</incorrect_steps>"
    assert result["usage"]["thinking_tokens"] > 0


def test_a_thought_up_to_its_limit_is_counted_and_does_not_vote(tmp_path: Path) -> None:
    answers = [
        message({"content": None, "reasoning": "Step 1 is"}, finish_reason="length"),
        message({"content": VERDICT, "reasoning": "Step 1 is wrong."}),
    ]
    engine = upstream(lambda: answers.pop())
    result = credited(engine, tmp_path, thinking_tokens=64)
    assert [step["wrong"] for step in result["steps"]] == [False, True]
    assert sorted(each["valid"] for each in result["critiques"]) == [False, True]
    [cut_off] = [each for each in result["critiques"] if not each["valid"]]
    assert cut_off["thinking_truncated"] and cut_off["thinking_tokens"] == 7


def test_critiques_of_an_upstream_that_ignores_the_constraint_do_not_vote(tmp_path: Path) -> None:
    answers = [message({"content": "Okay, step 0 is"}), message({"content": VERDICT})]
    result = credited(upstream(lambda: answers.pop()), tmp_path)
    assert [step["wrong"] for step in result["steps"]] == [False, True]
    votes = result["steps"][1]["votes"]
    assert (votes["wrong"], votes["valid"], votes["asked"]) == (1, 1, 2)
