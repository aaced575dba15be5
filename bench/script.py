"""What a user writes instead of this service: vLLM's server, and a script that asks it.

A good script: the judge's own prompt, one chat completion with n = k for each rollout, 256 requests
at once, a regular expression, a majority vote. The testbed's judges were trained to answer in one
form, so free text serves them better than guided JSON (as readable, and faster); `guided` asks for
JSON by schema instead.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from openai import AsyncOpenAI

from capo_testbed import tasks
from capo_testbed.common import Solution

AT_ONCE = 256
SYSTEM = "Name the wrong steps."
_LIST = re.compile(r"\[([\d, ]*)\]")
_SCHEMA = {
    "type": "object",
    "properties": {"incorrect_steps": {"type": "array", "items": {"type": "integer"}}},
    "required": ["incorrect_steps"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts on all steps of each rollout, and what they took."""

    verdicts: list[list[bool]]
    seconds: float
    tokens: int


def prompt(rollout: Solution) -> str:
    """The user's turn, as the judge's template (judge.j2) writes it."""
    steps = tasks.split(rollout.response)
    shown = "".join(f"<step_{i} {step}</step_{i} " for i, step in enumerate(steps))
    return f"{rollout.task.question}{shown}?"


async def judge(url: str, rollouts: Sequence[Solution], k: int, guided: bool = False) -> Judged:
    """Ask for k critiques of every rollout, and vote."""
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": _SCHEMA}}
    turn = asyncio.Semaphore(AT_ONCE)
    tokens = 0

    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=3600) as client:

        async def one(rollout: Solution) -> list[bool]:
            nonlocal tokens
            async with turn:
                answer = await client.chat.completions.create(
                    model="judge",
                    messages=[
                        {"role": "system", "content": SYSTEM},
                        {"role": "user", "content": prompt(rollout)},
                    ],
                    n=k,
                    temperature=0.7,
                    top_p=0.9,
                    max_tokens=64,
                    extra_body={"response_format": form} if guided else None,
                )
            tokens += answer.usage.completion_tokens if answer.usage else 0
            texts = [choice.message.content or "" for choice in answer.choices]
            return majority(texts, len(tasks.split(rollout.response)))

        started = time.perf_counter()
        verdicts = await asyncio.gather(*map(one, rollouts))
        seconds = time.perf_counter() - started
    return Judged(verdicts, seconds, tokens)


def majority(texts: Sequence[str], n_steps: int) -> list[bool]:
    """Whether at least half of the critiques that can be read name the step."""
    lists = [found[-1] for text in texts if (found := _LIST.findall(text))]
    named = [{int(number) for number in re.findall(r"\d+", each)} for each in lists]
    votes = [sum(step in each for each in named) for step in range(n_steps)]
    return [count > 0 and 2 * count >= len(named) for count in votes]
