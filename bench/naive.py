"""Baseline without this service: k chat completions per rollout, and a regular expression.

Run by bench/service.py against `python -m vllm.entrypoints.openai.api_server`, which is what
`vllm serve` runs. The prompt is the one of the paper's appendix, in short: the judge thinks in
free text and ends with the list of wrong steps.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

from openai import AsyncOpenAI

PROMPT = """The following is a math problem and a solution, split into steps, each in a tag with \
its number, counted from 0.

[Problem]
{question}

[Solution]
{solution}

Analyse each step of the solution and say whether it is right. Then end your answer with one line:
Incorrect steps: [the numbers of all wrong steps, apart by commas; [] if there is none]"""
_VERDICT = re.compile(r"[Ii]ncorrect steps?:\s*\[([^\]]*)\]")


async def credit(
    url: str, rollouts: Sequence[dict[str, Any]], k: int, max_tokens: int
) -> dict[str, float]:
    """Critiques and votes of all rollouts; what it took, and how many critiques could be read."""
    started = time.perf_counter()
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=3600) as client:

        async def critique(rollout: dict[str, Any]) -> tuple[set[int] | None, int]:
            steps = rollout["response"].split("\n\n")
            solution = "\n".join(f"<step_{i}>{s}</step_{i}>" for i, s in enumerate(steps))
            text = PROMPT.format(question=rollout["question"], solution=solution)
            answer = await client.chat.completions.create(
                model="judge", messages=[{"role": "user", "content": text}],
                temperature=0.7, top_p=0.9, max_tokens=max_tokens,
            )  # fmt: skip
            found = _VERDICT.findall(answer.choices[0].message.content or "")
            wrong = {int(n) for n in re.findall(r"\d+", found[-1])} if found else None
            return wrong, answer.usage.completion_tokens if answer.usage else 0

        async def judge(rollout: dict[str, Any]) -> tuple[list[bool] | None, int, int]:
            critiques = await asyncio.gather(*(critique(rollout) for _ in range(k)))
            valid = [wrong for wrong, _ in critiques if wrong is not None]
            count = len(rollout["response"].split("\n\n"))
            votes = [sum(i in wrong for wrong in valid) for i in range(count)]
            majority = [2 * v >= len(valid) and v > 0 for v in votes] if valid else None
            return majority, len(valid), sum(tokens for _, tokens in critiques)

        judged = await asyncio.gather(*map(judge, rollouts))
    return {
        "seconds": time.perf_counter() - started,
        "tokens": sum(tokens for _, _, tokens in judged),
        "readable": sum(valid for _, valid, _ in judged) / (k * len(rollouts)),
        "credited": sum(majority is not None for majority, _, _ in judged),
    }
