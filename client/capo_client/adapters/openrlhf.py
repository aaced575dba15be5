"""OpenRLHF with CAPO: a reward function in a Python file (`--reward.remote_url FILE.py`).

    # reward_func.py
    from capo_client.adapters.openrlhf import make_reward_func

    reward_func = make_reward_func(voting={"n": 4})

`--data.label_key` names the reference answer. OpenRLHF calls the function in a thread, for each
rollout as soon as it is sampled. Its pipeline has one number per rollout: the mean of the rewards
over characters.

OpenRLHF calls reward functions for single turns only; a multi-turn agent returns its own rewards.

Without a file: `--reward.remote_url http://SERVICE/openrlhf`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack

from capo_client.adapters.scoring import Sample, Scorer, ScorerArgs
from capo_wire.aggregate import columns
from capo_wire.answers import END_TOKENS, response_of

RewardFunc = Callable[[Sequence[str], Sequence[str], Sequence[Any]], dict[str, Any]]


def make_reward_func(
    url: str | Sequence[str] | None = None,
    *,
    end_tokens: Sequence[str] = END_TOKENS,
    **options: Unpack[ScorerArgs],
) -> RewardFunc:
    """A `reward_func(queries, prompts, labels)`.

    Args:
        url: the service. Default: CAPO_URL.
        end_tokens: special tokens that OpenRLHF leaves at the end of a response's text.
        options: arguments of `Scorer`. With fallback `skip`, a rollout without credit raises, so
            that OpenRLHF leaves it without a reward.

    Returns:
        A function that returns float tensors with one number per rollout: `rewards`; `scores`,
        the outcomes in [0, 1] for OpenRLHF's dynamic filtering, left out if one is unknown
        (OpenRLHF then filters by rewards); and `extra_logs`, with NaN for unknown values.

    Raises:
        UnavailableError: there is no service at the URL.
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
        if errors := [each.error for each in scored if each.reward is None]:
            raise RuntimeError(f"{len(errors)} rollouts have no credit: {errors[0]}")
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
