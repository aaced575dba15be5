"""AReaL with CAPO: `reward_fn=capo_client.adapters.areal.reward_fn` of an RLVR workflow.

AReaL calls it in worker processes, for each rollout as soon as it is sampled, and takes one number:
the mean of the rewards over characters. The data's `answer` is the reference. Settings come from
CAPO_URL and CAPO_OPTIONS (a JSON object with the arguments of `Scorer`). AReaL's timeout for a
reward is 15 s; a slower judge needs `AsyncRewardWrapper(reward_fn, timeout_seconds=...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capo_client.adapters.scoring import Sample, default_scorer
from capo_wire.answers import END_TOKENS, response_of


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    answer: Any = None,
    question: str | None = None,
    **_: Any,
) -> float:
    """The reward of one rollout; picklable, for AReaL's worker processes.

    Raises:
        RuntimeError: it has no credit; AReaL then retries.
    """
    sample = Sample(
        question or prompt,
        text=response_of(completions, "", END_TOKENS),
        reference=answer,
    )
    [scored] = default_scorer().score_now([sample])
    if scored.reward is None:
        raise RuntimeError(f"the rollout has no credit: {scored.error}")
    return scored.reward
