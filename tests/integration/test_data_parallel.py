"""Two data-parallel ranks of a real vLLM: what shares a prompt is sampled where it is cached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext

import pytest

from capo_service.engine.base import CritiqueSampling, JudgePrompt
from capo_service.engine.vllm import VllmEngine

BLOCK = 32
# The first block of a prompt ends inside the question.
QUESTIONS = [f"{name} has 5 coins. " * 20 for name in ("Ann", "Ben", "Cara", "Dan")]


@pytest.fixture
async def judge() -> AsyncIterator[VllmEngine]:
    engine = VllmEngine("demo", {"data_parallel_size": 2})
    limits = await engine.start()
    assert limits.batch is not None and limits.batch.ranks == 2
    assert limits.slots == 2 * limits.batch.max_num_seqs
    try:
        yield engine
    finally:
        await engine.close()


async def test_the_critiques_of_a_question_share_a_rank(judge: VllmEngine) -> None:
    numbers = iter(range(1000))

    async def cached(question: str, response: str) -> int:
        user = ((question, False), (response, False))
        prompt = judge.encode(JudgePrompt((("Judge.", True),), user))
        sampling = CritiqueSampling(1.0, 0.9, max_tokens=4, seed=0)
        completion = await judge.complete(f"r{next(numbers)}", prompt, sampling)
        return completion.cached_tokens

    ranks = set()
    for question in QUESTIONS:
        assert await cached(question, "1 + 2 = 3") == 0
        for response in ("1 + 2 = 3", "2 + 2 = 4"):  # two rollouts
            every = await asyncio.gather(*(cached(question, response) for _ in range(6)))
            assert min(every) >= BLOCK
        ranks.add(judge._router._ranks[hash(question)])
    assert ranks == {0, 1}

    # vLLM's own choice computes the prompt on each rank.
    judge._router.route = lambda group: nullcontext(None)  # type: ignore[method-assign]
    assert await cached("Eve" + QUESTIONS[0], "3") == 0
    every = await asyncio.gather(*(cached("Eve" + QUESTIONS[0], "3") for _ in range(6)))
    assert min(every) == 0
