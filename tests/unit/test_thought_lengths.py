"""Admission counts thoughts by what they take on average, not by their budget."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

import capo_wire as wire
from capo_service.judges.loading import load_profile
from capo_service.pipeline.batch import estimated_tokens
from capo_service.pipeline.critics import JudgeCritic
from capo_service.pipeline.critique_sampler import CritiqueSampler
from capo_service.pipeline.loading import critique_tokens
from capo_service.pipeline.prepare import CritiquePolicy
from capo_service.scheduling.admission import Admission, QueueFullError, Ticket
from capo_service.scheduling.thought_lengths import ThoughtLengths
from kit_pipeline import make_preparer
from kit_scripted import ScriptedEngine

ROLLOUT = wire.Rollout(question="How many?", response="One.\n\nTwo.", outcome=1.0)


def thinking(budget: int, n: int = 4) -> wire.CreditOptions:
    return wire.CreditOptions(voting=wire.Voting(n=n, thinking_tokens=budget))


def test_half_of_the_budget_is_the_first_guess_and_the_mean_follows_the_judge() -> None:
    lengths = ThoughtLengths()
    assert (lengths.expected_tokens(0), lengths.expected_tokens(1000)) == (0, 500)
    for _ in range(400):
        lengths.record(1000, 100)
    assert lengths.expected_tokens(1000) == pytest.approx(100, abs=5)
    assert lengths.expected_tokens(600) == pytest.approx(60, abs=3)  # of a similar size
    assert lengths.expected_tokens(4096) == 2048  # nothing is known of much longer ones
    for _ in range(400):  # the judge got new weights
        lengths.record(1000, 1000)
    assert lengths.expected_tokens(1000) > 800


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(0, 1 << 20)), max_size=200))
def test_estimates_are_within_the_budget_and_memory_is_bounded(
    found: list[tuple[int, int]],
) -> None:
    lengths = ThoughtLengths()
    for budget, tokens in found:
        lengths.record(budget, tokens)
        assert 0 <= lengths.expected_tokens(budget) <= budget
    assert len(lengths._shares) <= 21


def test_a_judge_that_ends_its_thoughts_early_is_admitted_accordingly() -> None:
    """Of rollouts that a queue holds, more are admitted once short thoughts were measured."""
    lengths, options = ThoughtLengths(), thinking(2000)
    engine = ScriptedEngine(thoughts=lambda prompt, sampling: "hm " * 20)
    tokens = partial(critique_tokens, CritiquePolicy(), load_profile(), lengths)

    def admitted() -> int:
        admission, size = Admission(20_000, 1), estimated_tokens(ROLLOUT, options, tokens)
        with ExitStack() as held, suppress(QueueFullError):
            for number in range(1000):
                held.enter_context(admission.admit(1, size, Ticket(f"r{number}")))
        return number

    async def judge(times: int) -> None:
        await engine.start()
        sampler = CritiqueSampler(JudgeCritic(engine, engine.slots), lengths)
        preparer = make_preparer(engine.encode, CritiquePolicy())
        for _ in range(times):
            await sampler.sample(preparer.prepare(ROLLOUT, options), options.voting)

    before = admitted()
    asyncio.run(judge(20))
    assert lengths.expected_tokens(2000) < 200
    assert admitted() > 5 * before
