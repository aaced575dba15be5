"""vLLM itself: a decided vote aborts thoughts that run, and their tokens are counted."""

from __future__ import annotations

from dataclasses import replace

import capo_wire as wire
from capo_service.core.verdicts.base import Verdict
from capo_service.engine.base import FINISHED_EARLY
from capo_service.engine.vllm import VllmEngine
from capo_service.pipeline.assemble import credited
from capo_service.pipeline.critics import Ballot, JudgeCritic
from capo_service.pipeline.critique_sampler import CritiqueSampler
from capo_service.pipeline.prepare import CritiquePolicy
from capo_service.pipeline.prepared import Prepared
from kit_pipeline import make_preparer

SHORT, LONG = 8, 1500  # budgets in tokens; the long thoughts would take a minute
ROLLOUT = wire.Rollout(question="2 + 2?", response="2 + 2 = 4.\n\nIt is 4.", outcome=1.0)
OPTIONS = wire.CreditOptions(voting=wire.Voting(n=8, thinking_tokens=LONG, seed=1))


class Uneven(JudgeCritic):
    """The first five of eight critiques think shortly; all that are completed flag nothing."""

    async def critique(self, request: str, prepared: Prepared, position: int) -> Ballot:
        task = prepared.task
        assert task is not None
        budget = SHORT if position < 5 else LONG
        sampling = replace(task.sampling, thinking_tokens=budget)
        given = replace(prepared, task=replace(task, sampling=sampling))
        ballot = await super().critique(request, given, position)
        if ballot.completion.finish_reason == FINISHED_EARLY:
            return ballot
        assert ballot.verdict.wrong is not None, ballot
        return replace(ballot, verdict=Verdict(frozenset()))


async def test_running_thoughts_are_aborted_and_their_tokens_counted() -> None:
    engine = VllmEngine("embedded")
    limits = await engine.start()
    try:
        prepared = make_preparer(engine.encode, CritiquePolicy(style="verdict")).prepare(
            ROLLOUT, OPTIONS
        )
        sampler = CritiqueSampler(Uneven(engine, limits.slots))
        ballots = await sampler.sample(prepared, OPTIONS.voting)
    finally:
        await engine.close()
    outcome = wire.Outcome(value=1.0, source="caller")
    usage = credited(prepared, OPTIONS, outcome, ballots).usage
    aborted = [b.completion for b in ballots if b.completion.finish_reason == FINISHED_EARLY]
    assert len(ballots) == 8 and len(aborted) == 3 and usage.critiques_run == 5
    for completion in aborted:
        assert SHORT <= completion.thinking_tokens < LONG / 2, completion
        assert completion.completion_tokens == completion.thinking_tokens
        assert completion.thinking and not completion.text
    thoughts = sum(ballot.completion.thinking_tokens for ballot in ballots)
    assert usage.thinking_tokens == thoughts > 3 * SHORT
    assert usage.completion_tokens > usage.thinking_tokens
