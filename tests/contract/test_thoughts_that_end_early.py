"""A decided vote ends the thoughts that still run, and what they took is in the usage."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import httpx

from capo_service.engine.base import CritiqueSampling
from kit_scripted import ScriptedEngine
from kit_service import ROLLOUT, body, serving, settings

BUDGET, SHORT = 4000, 20  # tokens
TOKEN_SECONDS = 0.005  # the longest thought takes 20 s


def thinking(early_stop: bool = True, budget: int = BUDGET) -> dict[str, object]:
    return {"n": 8, "early_stop": early_stop, "thinking_tokens": budget}


def test_a_decided_vote_ends_thoughts_that_run(tmp_path: Path) -> None:
    order = itertools.count()

    def thoughts(prompt: str, sampling: CritiqueSampling) -> str:
        return "x" * (SHORT if next(order) % 8 < 5 else BUDGET)

    engine = ScriptedEngine(thoughts=thoughts, token_seconds=TOKEN_SECONDS)
    with serving(engine, settings(tmp_path)) as service:
        began = time.monotonic()
        asked = body(voting=thinking(), include=["critiques", "thinking"])
        answer = httpx.post(f"{service.url}/credit", json=asked, timeout=60).json()
        assert time.monotonic() - began < BUDGET * TOKEN_SECONDS / 2
    [result] = answer["results"]
    # Five of eight have found nothing wrong: the other three cannot make a majority.
    assert len(engine.aborted) == 3 and engine.running == 0 and not engine.cancelled
    assert [len(each["thinking"]) for each in result["critiques"]] == [SHORT] * 5
    assert {each["votes"]["valid"] for each in result["steps"]} == {5}
    usage = answer["usage"]
    assert usage["critiques_run"] == 5
    assert 5 * SHORT < usage["thinking_tokens"] < 3 * BUDGET / 2
    verdicts = sum(len(each["text"]) for each in result["critiques"])
    assert usage["completion_tokens"] == usage["thinking_tokens"] + verdicts


def test_without_early_stop_all_thoughts_are_thought_to_their_end(tmp_path: Path) -> None:
    engine = ScriptedEngine(thoughts=lambda prompt, sampling: "x" * 100)
    with serving(engine, settings(tmp_path)) as service:
        asked = body(ROLLOUT, voting=thinking(early_stop=False, budget=64), include=["critiques"])
        answer = httpx.post(f"{service.url}/credit", json=asked, timeout=60).json()
    [result] = answer["results"]
    assert answer["usage"]["thinking_tokens"] == 8 * 64
    assert all(each["thinking_truncated"] for each in result["critiques"])
    assert all(each["thinking"] is None for each in result["critiques"])  # not asked for
