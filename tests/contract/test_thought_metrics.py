"""What the metrics and the live view say about thoughts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from capo_service.engine.base import CritiqueSampling
from capo_service.observability import live
from kit_scripted import ScriptedEngine
from kit_service import Service, body, eventually, serving, settings


def metric(service: Service, name: str) -> float:
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    [value] = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")]
    return float(value)


def credit(service: Service, **voting: Any) -> None:
    asked = body(voting={"early_stop": False, **voting}, include=["critiques", "thinking"])
    httpx.post(f"{service.url}/credit", json=asked, timeout=60).raise_for_status()


def test_thoughts_their_lengths_and_those_at_their_budget_are_counted(tmp_path: Path) -> None:
    lengths = iter([0, 10, 64, 500])

    def thoughts(prompt: str, sampling: CritiqueSampling) -> str:
        return "x" * next(lengths)

    with serving(ScriptedEngine(thoughts=thoughts), settings(tmp_path)) as service:
        credit(service, n=3)  # without a budget there are no thoughts
        assert metric(service, "capo_thought_tokens_count") == 0
        credit(service, n=4, thinking_tokens=64)
        assert metric(service, "capo_thought_tokens_count") == 4
        assert metric(service, "capo_thought_tokens_sum") == 0 + 10 + 64 + 64
        assert metric(service, "capo_thoughts_truncated_total") == 2
        tokens = 'capo_judge_tokens_total{key="anonymous",kind="thinking"}'
        assert metric(service, tokens) == 0 + 10 + 64 + 64

        def sampled() -> bool:
            sample = httpx.get(f"{service.url}/live").json()["samples"][-1]
            found = [sample[name] for name in ("thoughts", "thought_tokens", "thoughts_truncated")]
            return found == [4, 138, 2]

        eventually(sampled)


def test_the_live_view_keeps_the_start_of_long_thoughts(tmp_path: Path) -> None:
    engine = ScriptedEngine(thoughts=lambda prompt, sampling: "x" * 30_000)
    with serving(engine, settings(tmp_path, live_rollouts=5)) as service:
        credit(service, n=4, thinking_tokens=30_000)
        [kept] = httpx.get(f"{service.url}/live").json()["recent"]
    thoughts = [critique["thinking"] for critique in kept["result"]["critiques"]]
    assert [len(each) for each in thoughts] == [live._MOST_CHARACTERS // 4 + 1] * 4
    assert all(each.endswith("x…") for each in thoughts)
