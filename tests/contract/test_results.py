"""The cache of results: what is found again, what is not, and what it does not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

import capo_wire as wire
from capo_service.pipeline.result_cache import MemoryCache
from capo_wire.token_offsets import offsets_of
from kit_scripted import ScriptedEngine
from kit_service import ROLLOUT, Service, body, serving, settings


def ask(service: Service, rollout: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    answer = httpx.post(f"{service.url}/credit", json=body(rollout or ROLLOUT, **options))
    [result] = answer.json()["results"]
    return dict(result)


def test_what_was_judged_is_not_judged_again(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    everything = ["token_rewards", "critiques", "response"]
    with serving(engine, settings(tmp_path, result_cache="memory")) as service:
        first = ask(service, include=everything)
        judged = len(engine.prompts)
        again = ask(service, {**ROLLOUT, "id": "mine"}, include=everything, deadline_ms=5000)
        assert len(engine.prompts) == judged
        assert again["cached"] and not first["cached"] and again["id"] == "mine"
        assert set(again["usage"].values()) == {0} and first["usage"]["prompt_tokens"] > 0
        apart = {"id", "cached", "usage"}
        assert {k: v for k, v in again.items() if k not in apart} == {
            k: v for k, v in first.items() if k not in apart
        }
        assert "critiques" not in ask(service) or ask(service)["critiques"] is None
        metrics = httpx.get(f"{service.url}/metrics").text
        assert 'capo_result_cache_total{result="hit"} ' in metrics
        assert 'capo_judge_tokens_total{key="anonymous",kind="prompt"} ' in metrics


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"response": "a\n\nc"}, {}),
        ({"question": "r"}, {}),
        ({"outcome": 0}, {}),
        ({"reference": "7"}, {}),
        ({"steps": [[0, 4]]}, {}),
        ({}, {"voting": {"n": 2}}),
        ({}, {"voting": {"seed": 7}}),
        ({}, {"reward": {"w_process": 2.0}}),
        ({}, {"segment": {"method": "newline"}}),
        ({}, {"show_reference": False}),
    ],
)
def test_whatever_can_change_the_credit_is_judged_anew(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any]
) -> None:
    with serving(ScriptedEngine(), settings(tmp_path, result_cache="memory")) as service:
        ask(service)
        assert not ask(service, {**ROLLOUT, **change}, **options)["cached"]
        assert ask(service)["cached"]


def test_offsets_and_lengths_that_mean_the_same_are_judged_once(tmp_path: Path) -> None:
    lengths = [2, 1, 0, 3]
    forms: list[dict[str, Any]] = [
        {"token_offsets": offsets_of(lengths)},
        {"token_lengths": lengths},
        {"token_lengths": [1, 2, 0, 3]},
        {},
    ]
    with serving(ScriptedEngine(), settings(tmp_path, result_cache="memory")) as service:
        found = [ask(service, {**ROLLOUT, "response": "ab\n\ncd", **form}) for form in forms]
    assert [each["cached"] for each in found] == [False, True, False, False]
    assert found[1]["token_rewards"] == found[0]["token_rewards"]


def result(name: str, text: str = "x") -> wire.Credited:
    return wire.Credited(id=name, outcome=None, steps=[], response=text, usage=wire.Usage())


async def test_memory_is_bounded_in_bytes_and_in_time() -> None:
    now = 0.0
    size = len(result("0", "x" * 100).model_dump_json())
    cache = MemoryCache(3 * size, 60, lambda: now)
    for name in "0123":
        await cache.put(name, result(name, "x" * 100))
    kept = [await cache.get(name) for name in "0123"]
    assert [found and found.id for found in kept] == [None, "1", "2", "3"]
    await cache.put("large", result("large", "x" * 1000))  # larger than all there is room for
    assert await cache.get("large") is None and await cache.get("3") is not None
    now = 61
    assert await cache.get("3") is None
