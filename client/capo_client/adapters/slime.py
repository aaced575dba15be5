"""slime with CAPO: `--custom-rm-path capo_client.adapters.slime.reward` (or `--rm-url`, below).

`--label-key` names the reference answer. Settings come from CAPO_URL and from CAPO_OPTIONS (a JSON
object with the arguments of `Scorer`). slime carries one number a rollout; with
`"tokenizer_name"` in CAPO_OPTIONS, the rewards of the tokens are kept in
`sample.metadata["capo_token_rewards"]`, for a `--custom-convert-samples-to-train-data-path` of
yours.

Without this package on slime's nodes: `--rm-type remote_rm --rm-url http://SERVICE/slime`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capo_client.adapters.scoring import Sample, default_scorer


async def reward(args: Any, sample: Any, **_: Any) -> Any:
    """slime's custom reward: a float for a sample, and a list for a list of them.

    Raises:
        RuntimeError: a rollout has no credit; set `"fallback": "outcome"`, or let slime try again.
    """
    samples = sample if isinstance(sample, list) else [sample]
    scorer = default_scorer()
    scored = await scorer.score([_sample(each, scorer.by_name) for each in samples])
    for each, result in zip(samples, scored, strict=True):
        if result.reward is None:
            raise RuntimeError(f"a rollout has no credit: {result.error}")
        if isinstance(each.metadata, dict):
            each.metadata |= result.metrics()
            each.metadata["capo_token_rewards"] = result.token_rewards
    rewards = [result.reward for result in scored]
    return rewards if isinstance(sample, list) else rewards[0]


def _sample(sample: Any, with_ids: bool) -> Sample:
    ids: Sequence[int] | None = None
    if with_ids and sample.response_length:
        ids = sample.tokens[-sample.response_length :]
    return Sample(
        sample.prompt,
        ids=ids,
        text=None if ids is not None else sample.response,
        reference=None if sample.label is None else str(sample.label),
    )
