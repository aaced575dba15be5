"""slime with CAPO: `--custom-rm-path capo_client.adapters.slime.reward` (or `--rm-url`, below).

`--label-key` names the reference answer. Settings come from CAPO_URL and CAPO_OPTIONS (JSON with
the arguments of `Scorer`). slime uses one number per rollout; with `"tokenizer_name"` in
CAPO_OPTIONS, token rewards are also stored in `sample.metadata["capo_token_rewards"]`, for your own
`--custom-convert-samples-to-train-data-path`. Tokens whose `loss_mask` is 0 (output of tools) are
not judged and get 0.0; the others are decoded by the tokenizer of `--hf-checkpoint`.

Without this package on slime's nodes: `--rm-type remote_rm --rm-url http://SERVICE/slime`. That
client sends the response's text without a mask, so it supports rollouts without tools only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from capo_client.adapters.scoring import Sample, default_scorer


async def reward(args: Any, sample: Any, **_: Any) -> Any:
    """slime's custom reward: a float for a sample, a list of floats for a list of samples.

    Raises:
        RuntimeError: a rollout has no credit; set `"fallback": "outcome"`, or let slime retry.
        ValueError: `loss_mask` does not show which tokens the policy wrote.
    """
    samples = sample if isinstance(sample, list) else [sample]
    scorer = default_scorer()
    masks = [_mask(args, one) for one in samples]
    if scorer.tokenizer is None and any(mask is not None for mask in masks):
        scorer.tokenizer = _tokenizer(args.hf_checkpoint)
    scored = await scorer.score(
        [_sample(one, mask, scorer.by_name) for one, mask in zip(samples, masks, strict=True)]
    )
    for one, result in zip(samples, scored, strict=True):
        if result.reward is None:
            raise RuntimeError(f"a rollout has no credit: {result.error}")
        if isinstance(one.metadata, dict):
            one.metadata |= result.metrics()
            one.metadata["capo_token_rewards"] = result.token_rewards
    rewards = [result.reward for result in scored]
    return rewards if isinstance(sample, list) else rewards[0]


def _sample(sample: Any, mask: Sequence[int] | None, by_name: bool) -> Sample:
    if sample.response_length and (by_name or mask is not None):
        ids = sample.tokens[-sample.response_length :]
        return Sample(sample.prompt, ids=ids, mask=mask, reference=sample.label)
    return Sample(sample.prompt, text=sample.response, reference=sample.label)


def _mask(args: Any, sample: Any) -> Sequence[int] | None:
    """The loss mask if others wrote a part of the response; None if the policy wrote all of it."""
    mask: Sequence[int] | None = sample.loss_mask
    if mask is None or (all(mask) and len(mask) == sample.response_length):
        return None
    masks_older_policy = getattr(args, "partial_rollout", False) and getattr(
        args, "mask_offpolicy_in_partial_rollout", False
    )
    if not masks_older_policy:
        return mask
    # slime then masks tokens of an older policy, which are part of the rollout nevertheless.
    if getattr(args, "custom_generate_function_path", None) or getattr(
        sample, "generate_function_path", None
    ):
        raise ValueError(
            "with --mask-offpolicy-in-partial-rollout and a custom generate function, loss_mask "
            "does not distinguish tokens of tools from those of an older policy: remove that option"
        )
    return None


@cache
def _tokenizer(checkpoint: str) -> Any:
    from slime.utils.processing_utils import load_tokenizer

    return load_tokenizer(checkpoint, trust_remote_code=True)  # as slime itself does
