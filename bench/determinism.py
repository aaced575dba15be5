"""Does a request get the same rewards alone or in a batch, first or after a thousand others?

    make bench-determinism     # a table, and build/bench/determinism.json

Rollouts are credited one by one by an idle service with an empty cache; then again: one by one, all
in one request, among others, and after many others. What is compared is the bytes of their
token rewards, and of the critiques. Nothing of ours depends on the company that a request has; the
engine's arithmetic does, for kernels add up in another order in another batch.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

from engines import LOGS, OUT, Rollouts, service
from rich.console import Console
from rich.table import Table
from running import Source

from capo_client import AsyncCreditClient
from capo_service.engine import testbed
from capo_service.settings.fields import TESTBED_JUDGES

ROLLOUTS = 32
VOTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"method": "greedy", "seed": 7},
    "majority of 4, seed 7": {"method": "majority", "n": 4, "seed": 7, "early_stop": False},
}
# Judge, settings, and how many others come between: a thousand where that takes minutes.
JUDGES: dict[str, tuple[str, dict[str, str], int]] = {
    "testbed's judge, float32": ("testbed", {}, 1000),
    "embedded, bfloat16": ("embedded", {}, 1000),
    "embedded, float32": ("embedded", {"CAPO_ENGINE_ARGS": '{"dtype": "float32"}'}, 96),
}


async def rewards(
    url: str, rollouts: Sequence[dict[str, Any]], voting: dict[str, Any], at_once: int
) -> dict[str, tuple[str, str]]:
    """Rewards and critiques of each rollout, as text, by its id."""
    found = {}
    async with AsyncCreditClient(url, batch_size=at_once, concurrency=64) as client:
        for start in range(0, len(rollouts), at_once):
            part = rollouts[start : start + at_once]
            batch = await client.credit(part, voting=voting, include=["token_rewards", "critiques"])
            for result in batch.raise_for_errors().credited:
                said = [critique.text for critique in result.critiques or ()]
                found[result.id] = json.dumps(result.token_rewards), json.dumps(said)
    return found


def characters(text: str) -> list[tuple[int, int]]:
    """Token offsets where each character is a token."""
    return [(i, i + 1) for i in range(len(text))]


def compared(first: dict[str, tuple[str, str]], then: dict[str, tuple[str, str]]) -> dict[str, int]:
    """How many of the first have other rewards, or other critiques, then."""
    return {
        "of": len(first),
        "other_rewards": sum(then[name][0] != rewards for name, (rewards, _) in first.items()),
        "other_critiques": sum(then[name][1] != said for name, (_, said) in first.items()),
    }


def measure(url: str, ours: Rollouts, others: Rollouts, voting: dict[str, Any]) -> dict[str, Any]:
    def run(rollouts: Rollouts, at_once: int) -> dict[str, tuple[str, str]]:
        return asyncio.run(rewards(url, rollouts, voting, at_once))

    chance = random.Random(0)
    first = run(ours, 1)
    found = {"one by one again": compared(first, run(ours, 1))}
    found["in one request"] = compared(first, run(ours, len(ours)))
    mixed = chance.sample(ours + others[:96], len(ours) + 96)
    found["among others"] = compared(first, run(mixed, len(mixed)))
    run(others, 128)
    found[f"one by one after {len(others):,} others"] = compared(first, run(ours, 1))
    return found


def main() -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    table = Table(
        "judge", "voting", "compared with one by one", "rewards differ", "critiques differ"
    )
    for name, (judge, settings, count) in JUDGES.items():
        if judge in TESTBED_JUDGES:
            testbed.folder(judge)  # raises if it was not made
        pool = [
            {**each, "id": str(number), "token_offsets": characters(each["response"])}
            for number, each in enumerate(Source(None).groups(count // 16 + 4))
        ]
        ours, others = pool[:ROLLOUTS], pool[ROLLOUTS : ROLLOUTS + count]
        with service("verdict", judge, **settings) as url:
            for voting_name, voting in VOTINGS.items():
                lines = measure(
                    url, ours, others if voting_name == "greedy" else others[:96], voting
                )
                found[f"{name}; {voting_name}"] = lines
                for when, seen in lines.items():
                    table.add_row(
                        name, voting_name, when, f"{seen['other_rewards']} of {seen['of']}",
                        f"{seen['other_critiques']} of {seen['of']}",
                    )  # fmt: skip
                print(name, voting_name, lines, flush=True)
        (OUT / "determinism.json").write_text(json.dumps(found, indent=2) + "\n")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
