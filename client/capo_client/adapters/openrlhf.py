"""OpenRLHF with CAPO: a reward function in a Python file (`--reward.remote_url FILE.py`).

    # reward_func.py
    from capo_client.adapters.openrlhf import make_reward_func

    reward_func = make_reward_func(voting={"n": 4})

`--data.label_key` names the reference answer. OpenRLHF calls the function for each rollout as soon
as it is sampled, in a thread. Its pipeline carries one number a rollout, so each gets the mean of
its rewards over characters.

It calls reward functions for single turns only; a multi-turn agent gives its own rewards.

Without a file: `--reward.remote_url http://SERVICE/openrlhf`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from capo_client.adapters.scoring import Sample, Scorer
from capo_wire.aggregate import columns
from capo_wire.answers import END_TOKENS, response_of

RewardFunc = Callable[[Sequence[str], Sequence[str], Sequence[Any]], dict[str, Any]]


def make_reward_func(
    url: str | Sequence[str] | None = None,
    *,
    end_tokens: Sequence[str] = END_TOKENS,
    **options: Any,
) -> RewardFunc:
    """A `reward_func(queries, prompts, labels)`.

    Args:
        url: the service; by default CAPO_URL.
        end_tokens: special tokens that OpenRLHF leaves at the end of a response's text.
        options: of `Scorer`. With fallback `skip`, a rollout without credit raises, so that
            OpenRLHF leaves it without a reward.

    Returns:
        A function that gives `rewards` and `scores` (one number a rollout; scores are outcomes, in
        [0, 1], for OpenRLHF's dynamic filtering, and left out where one is not known: OpenRLHF
        then filters by rewards) and `extra_logs`, all as float tensors; NaN for what is not known.

    Raises:
        UnavailableError: no service answers at the URL.
    """
    import torch

    scorer = Scorer(url, **options)

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]
    ) -> dict[str, Any]:
        samples = [
            Sample(prompt, text=response_of(query, prompt, end_tokens), reference=label)
            for query, prompt, label in zip(queries, prompts, labels, strict=True)
        ]
        scored = scorer.score_now(samples)
        if lost := [each.error for each in scored if each.reward is None]:
            raise RuntimeError(f"{len(lost)} rollouts have no credit: {lost[0]}")
        logs = columns([each.metrics() for each in scored])
        result = {
            "rewards": torch.tensor([each.reward for each in scored]),
            "extra_logs": {
                name: torch.tensor([math.nan if value is None else value for value in values])
                for name, values in logs.items()
            },
        }
        outcomes = [each.outcome for each in scored]
        if None not in outcomes:
            result["scores"] = torch.tensor(outcomes)
        return result

    return reward_func
