"""Early stop is lossless: with it, in waves or all at once, verdicts are those of the full vote."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import capo_wire as wire
from capo_service.core.verdicts.step_list import StepList
from capo_service.engine.base import ChatPrompt, CritiqueSampling
from capo_service.pipeline.critics import JudgeCritic
from capo_service.pipeline.critique_sampler import CritiqueSampler
from capo_service.pipeline.errors import NoValidCritiqueError
from capo_service.pipeline.judge_prompt import JudgeTask
from capo_service.pipeline.prepared import Prepared
from kit_pipeline import credit
from kit_scripted import ScriptedEngine

STEPS = 4


def prepared() -> Prepared:
    return Prepared(
        response="a\n\nb\n\nc\n\nd",
        spans=[(i, i + 1) for i in range(STEPS)],
        token_spans=[(i, i + 1) for i in range(STEPS)],
        task=JudgeTask(
            ChatPrompt([{"role": "user", "content": "?"}], tokens=1),
            CritiqueSampling(0.7, 0.9, 1000, seed=5),
            StepList(STEPS, 0),
        ),
    )


def judge(
    verdicts: dict[int, str], method: str, k: int, slots: int, early_stop: bool
) -> tuple[wire.Credited | None, int]:
    """The result for critiques that say, by position, what is given; and how many were begun."""

    def script(prompt: str, sampling: CritiqueSampling) -> str:
        assert sampling.seed is not None
        return verdicts[seeds[sampling.seed]]

    # The k-th critique's seed tells the script which it is.
    task = prepared().task
    assert task is not None
    seeds = {task.sampling.of_critique(i).seed: i for i in range(k)}
    voting: dict[str, Any] = {"method": method, "early_stop": early_stop, "seed": 5}
    if method != "greedy":
        voting["n"] = k
    options = wire.CreditOptions.model_validate({"voting": voting})

    async def run() -> tuple[wire.Credited | None, int]:
        engine = ScriptedEngine(script, slots=slots)
        await engine.start()
        try:
            result = await credit(JudgeCritic(engine, slots), prepared(), options, outcome=1.0)
        except NoValidCritiqueError:
            return None, len(engine.prompts)
        return result, len(engine.prompts)

    return asyncio.run(run())


def verdict(wrong: set[int]) -> str:
    return f'{{"incorrect_steps": {sorted(wrong)}}}'


answers = st.one_of(
    st.sets(st.integers(0, STEPS - 1), max_size=STEPS).map(verdict), st.just("unreadable")
)


@pytest.mark.parametrize("method", ["greedy", "intersection", "majority", "union", "average"])
@given(said=st.lists(answers, min_size=8, max_size=8), k=st.integers(1, 8))
def test_verdicts_are_those_of_the_full_vote(method: str, said: list[str], k: int) -> None:
    k = 1 if method == "greedy" else k
    by_position = dict(enumerate(said))
    full, begun = judge(by_position, method, k, slots=1000, early_stop=False)
    assert begun == k
    assert (full is None) == all(text == "unreadable" for text in said[:k])
    for slots in (0, 1000):  # no room at all: waves; room for all: at once
        early, begun = judge(by_position, method, k, slots, early_stop=True)
        assert (early is None) == (full is None) and begun <= k
        if early is not None and full is not None:
            assert [s.penalty for s in early.steps] == [s.penalty for s in full.steps]
            assert [s.wrong for s in early.steps] == [s.wrong for s in full.steps]
            assert early.token_rewards == full.token_rewards


def test_a_busy_engine_is_asked_for_less() -> None:
    """The share of critiques begun, where half of the rollouts have a wrong step."""
    rng = random.Random(0)
    begun = dict.fromkeys(("intersection", "majority", "union"), 0)
    for number in range(60):
        wrong = {rng.randrange(STEPS)} if number % 2 else set()
        said = {
            i: verdict({s for s in range(STEPS) if rng.random() < (0.7 if s in wrong else 0.05)})
            for i in range(8)
        }
        for method in begun:
            begun[method] += judge(said, method, 8, slots=0, early_stop=True)[1]
    shares = {method: count / (60 * 8) for method, count in begun.items()}
    assert shares["intersection"] < 0.4 and shares["majority"] < 0.85 and shares["union"] > 0.9


def test_a_burst_of_rollouts_shares_the_slots_from_its_first_critique() -> None:
    """Rollouts that start in the same turn of the event loop count each other's critiques."""
    options = wire.CreditOptions(voting=wire.Voting(method="intersection", n=8))

    async def burst() -> int:
        engine = ScriptedEngine(lambda prompt, sampling: verdict(set()), slots=4)
        await engine.start()
        critic = JudgeCritic(engine, 4)
        sampler = CritiqueSampler(critic)
        await asyncio.gather(*(sampler.sample(prepared(), options.voting) for _ in range(16)))
        return len(engine.prompts)

    assert asyncio.run(burst()) < 16 * 8 / 2, "one critique clears every step"
