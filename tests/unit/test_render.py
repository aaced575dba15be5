"""Credit on a terminal: what it says of thoughts, windows and criteria."""

from __future__ import annotations

from typing import Any

from rich.console import Console

import capo_wire as wire
from capo_client.cli.render import panel

BARE: dict[str, Any] = {
    "id": "r",
    "outcome": {"value": 1.0, "source": "caller"},
    "steps": [
        {
            "index": 0,
            "span": [0, 4],
            "token_span": None,
            "wrong": False,
            "penalty": 0.0,
            "votes": {"wrong": 0, "valid": 2, "asked": 2},
            "reward": 2.0,
        }
    ],
    "usage": {"critiques_run": 2, "completion_tokens": 90, "prompt_tokens": 9},
}


def shown(**more: Any) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(panel("q", "Four", wire.Credited.model_validate(BARE | more), (0.0, 2.0)))
    return " ".join(captured.get().replace("│", " ").split())


def critique(tokens: int, truncated: bool = False) -> dict[str, Any]:
    return {
        "text": "{}",
        "wrong_steps": [],
        "valid": True,
        "finish_reason": "stop",
        "thinking_tokens": tokens,
        "thinking_truncated": truncated,
    }


def test_a_judge_that_does_not_think_has_no_thoughts() -> None:
    assert "2 critiques · 90 completion tokens, 9 prompt tokens (0 from cache)" in shown()
    assert "criterion" not in shown()


def test_thoughts_and_windows_are_told() -> None:
    said = shown(
        usage=BARE["usage"] | {"thinking_tokens": 70},
        critiques=[critique(30, True), critique(20), critique(0)],
        windows=3,
    )
    assert "2 critiques · 3 windows · 90 completion tokens (70 of thoughts), 9 prompt" in said
    assert "1 of 2 thoughts reached the budget" in said


def test_criteria_are_a_table() -> None:
    def credit(name: str, kind: str, **more: Any) -> dict[str, Any]:
        given = {
            "id": name,
            "kind": kind,
            "weight": 1.0,
            "label": "C0",
            "holds": True,
            "share": 1.0,
            "step": None,
            "reward": 0.5,
        }
        return given | {"votes": {"holds": 2, "valid": 2, "asked": 2}} | more

    said = shown(
        criteria=[
            credit("rounds [b]early", "pitfall", step=0, reward=-0.5),
            credit("answers", "requirement"),
            credit("left", "bonus", label=None, holds=False, share=0.0, reward=0.0),
        ]
    )
    assert "rounds [b]early pitfall yes step 0 2/2 -0.50" in said
    assert "answers requirement yes whole 2/2 +0.50" in said
    assert "left bonus not judged" in said


def test_turns_and_what_stands_between_them_are_shown() -> None:
    first = BARE["steps"][0] | {"token_span": [0, 2]}
    second = first | {"index": 1, "span": [9, 12], "token_span": [4, 5], "turn": 1, "reward": 0.0}
    result = wire.Credited.model_validate(
        BARE
        | {
            "steps": [first, second],
            "token_rewards": [2.0, 2.0, 0.0, 0.0, 0.0, 0.0],
            "observations": [
                {"span": [4, 9], "left_out": 1200},
                {"span": [12, 17]},
            ],
        }
    )
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(panel("q", "Four[b]7[So] done", result, (0.0, 2.0)))
    said = [" ".join(line.replace("│", " ").split()) for line in captured.get().splitlines()]
    assert "turn # step votes reward tokens" in said
    at = said.index("0 0 Four ○○ 0/2 +2.00 2")
    assert said[at + 1] == "observation: [b]7[ (1,200 characters not shown to the judge)"
    assert said[at + 2 : at + 4] == ["1 1 So] ○○ 0/2 0 1", "observation: done"]
    assert "reward of each token ██··▁·" in said


def test_a_rollout_of_one_turn_has_no_turns() -> None:
    assert "turn" not in shown() and "observation" not in shown()
