"""Parts of the pipeline put together, without a queue."""

from __future__ import annotations

from collections.abc import Callable

import capo_wire as wire
from capo_service.engine.base import EncodedPrompt, JudgePrompt
from capo_service.judges.loading import load_profile
from capo_service.pipeline.assemble import credited
from capo_service.pipeline.critics import Critic
from capo_service.pipeline.critique_sampler import CritiqueSampler
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.pipeline.prepared import Prepared


def make_preparer(
    encode: Callable[[JudgePrompt], EncodedPrompt],
    policy: CritiquePolicy,
    secret: bytes = b"secret",
    prefill: bool = False,
) -> Preparer:
    """For a judge with the built-in template and a context without end."""
    prompter = JudgePrompter(encode, None, load_profile(), "structural_tag", secret, prefill)
    return Preparer(prompter, {}, policy)


async def credit(
    critic: Critic, prepared: Prepared, options: wire.CreditOptions, outcome: float
) -> wire.Credited:
    """Critiques, vote and rewards of a prepared rollout."""
    ballots = await CritiqueSampler(critic).sample(prepared, options.voting)
    return credited(prepared, options, wire.Outcome(value=outcome, source="caller"), ballots)
