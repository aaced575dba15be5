"""slime with CAPO: `--custom-rm-path capo_client.adapters.slime.reward` (or `--rm-url`, below).

`--label-key` names the reference answer. Settings come from CAPO_URL and CAPO_OPTIONS (JSON with
the arguments of `Scorer`). The judge sees tokens whose `loss_mask` is 0 (output of tools) as
observations; they get 0.0. Ids are decoded by the service if it has `"tokenizer_name"`, else here
by the tokenizer of `--hf-checkpoint`.

slime's reward is one number for each sample. For the advantage of each token, also name

    --custom-reward-post-process-path capo_client.adapters.slime.post_process_rewards
    --custom-advantage-function-path capo_client.adapters.slime.advantages

The first is eq. 2 over the tokens of each prompt's samples (each turn counts once with
`post_process_rewards_by_turn`; PASS with `post_process_rewards_by_pass`), and the second passes it
on to training.

Without this package on slime's nodes: `--rm-type remote_rm --rm-url http://SERVICE/slime`. That
client sends the response's text without a mask, so it supports rollouts without tools only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from capo_client.adapters.advantages import AdvantageLevel, pass_advantages, token_advantages
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
    as_ids = scorer.by_name or getattr(args, "custom_advantage_function_path", None) is not None
    needs_tokenizer = as_ids or any(mask is not None for mask in masks)
    if scorer.tokenizer is None and needs_tokenizer and not scorer.by_name:
        scorer.tokenizer = _tokenizer(args.hf_checkpoint)
    scored = await scorer.score(
        [_sample(one, mask, as_ids) for one, mask in zip(samples, masks, strict=True)]
    )
    for one, result in zip(samples, scored, strict=True):
        if result.reward is None:
            raise RuntimeError(f"a rollout has no credit: {result.error}")
        if isinstance(one.metadata, dict):
            one.metadata |= result.metrics()
            one.metadata["capo_token_rewards"] = result.token_rewards
            one.metadata["capo_outcome_reward"] = scorer.outcome_reward(result.outcome or 0.0)
    rewards = [result.reward for result in scored]
    return rewards if isinstance(sample, list) else rewards[0]


def _sample(sample: Any, mask: Sequence[int] | None, as_ids: bool) -> Sample:
    if sample.response_length and (as_ids or mask is not None):
        ids = sample.tokens[-sample.response_length :]
        return Sample(
            sample.prompt, ids=ids, mask=mask, tools=_tools(sample), reference=sample.label
        )
    return Sample(sample.prompt, text=sample.response, reference=sample.label)


def _tools(sample: Any) -> Any:
    """Those of `--tool-key`; a prompt that is text has them already, by the chat template."""
    return None if isinstance(sample.prompt, str) else (sample.metadata or {}).get("tools")


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


def post_process_rewards(args: Any, samples: Sequence[Any]) -> tuple[list[float], list[Any]]:
    """slime's hook: the raw rewards, and for each sample a tensor of its tokens' advantages.

    Raises:
        ValueError: a sample has no token rewards.
    """
    return _post_process(args, samples, "token")


def post_process_rewards_by_turn(
    args: Any, samples: Sequence[Any]
) -> tuple[list[float], list[Any]]:
    """As `post_process_rewards`; each turn counts once in mean and standard deviation."""
    return _post_process(args, samples, "turn")


def post_process_rewards_by_pass(
    args: Any, samples: Sequence[Any]
) -> tuple[list[float], list[Any]]:
    """As `post_process_rewards`, with PASS in place of eq. 2 (see `advantages.pass_advantages`)."""
    import torch

    flat, rewards, masks, groups = _padded(samples)
    outcome = torch.tensor([(one.metadata or {}).get("capo_outcome_reward", 0.0) for one in flat])
    found = pass_advantages(outcome, rewards - outcome[:, None], masks, groups)
    return _raw(args, flat), _unpadded(found, flat)


def _post_process(
    args: Any, samples: Sequence[Any], level: AdvantageLevel
) -> tuple[list[float], list[Any]]:
    flat, rewards, masks, groups = _padded(samples)
    scale: Any = "group" if getattr(args, "grpo_std_normalization", True) else "none"
    found = token_advantages(rewards, masks, groups, scale, level)
    return _raw(args, flat), _unpadded(found, flat)


def _padded(samples: Sequence[Any]) -> tuple[list[Any], Any, Any, list[object]]:
    """The samples, their token rewards and masks (B, T), and their groups."""
    import torch

    flat = list(_flat(samples))
    rewards = [torch.tensor(_token_rewards(sample)) for sample in flat]
    masks = [torch.tensor(_trained(sample), dtype=torch.bool) for sample in flat]
    pad = torch.nn.utils.rnn.pad_sequence
    groups = [_group(sample) for sample in flat]
    return flat, pad(rewards, batch_first=True), pad(masks, batch_first=True), groups


def _unpadded(found: Any, flat: Sequence[Any]) -> list[Any]:
    return [row[: one.response_length].clone() for row, one in zip(found, flat, strict=True)]


def _raw(args: Any, flat: Sequence[Any]) -> list[float]:
    return [sample.get_reward_value(args) for sample in flat]


def _flat(samples: Iterable[Any]) -> Iterable[Any]:
    for sample in samples:
        if isinstance(sample, list):
            yield from _flat(sample)
        else:
            yield sample


def _token_rewards(sample: Any) -> list[float]:
    rewards = (sample.metadata or {}).get("capo_token_rewards") if sample.response_length else []
    if rewards is None or len(rewards) != sample.response_length:
        raise ValueError(
            f"sample {sample.index} has {len(rewards or ())} token rewards for "
            f"{sample.response_length} tokens: name capo_client.adapters.slime.reward by "
            "--custom-rm-path, and both hooks for advantages"
        )
    return list(map(float, rewards))


def _trained(sample: Any) -> Sequence[int]:
    if getattr(sample, "remove_sample", False):
        return [0] * sample.response_length
    return sample.loss_mask or [1] * sample.response_length


def _group(sample: Any) -> object:
    return str(sample.prompt) if sample.group_index is None else sample.group_index


def advantages(args: Any, rollout_data: dict[str, Any]) -> None:
    """slime's hook: the advantages of `post_process_rewards` as `advantages` and `returns`.

    With context parallelism, those of this rank's tokens.

    Raises:
        ValueError: `--custom-reward-post-process-path` names another function.
    """
    found = []
    for position, (values, local) in enumerate(
        zip(rollout_data["rewards"], rollout_data["kl"], strict=True)
    ):
        if (
            not hasattr(values, "shape")
            or len(values) != rollout_data["response_lengths"][position]
        ):
            raise ValueError(
                "the rewards are not one for each token: set --custom-reward-post-process-path "
                "capo_client.adapters.slime.post_process_rewards"
            )
        if len(local) != len(values):
            values = _local(args, rollout_data, position, values)
        found.append(values.to(device=local.device, dtype=local.dtype))
    rollout_data["advantages"] = found
    rollout_data["returns"] = list(found)


def _local(args: Any, rollout_data: dict[str, Any], position: int, values: Any) -> Any:
    """The part of a sample's values whose tokens this rank of context parallelism has."""
    from slime.backends.megatron_utils.cp_utils import slice_log_prob_with_cp

    lengths = [rollout_data[name][position] for name in ("total_lengths", "response_lengths")]
    longest = rollout_data.get("max_seq_lens")
    return slice_log_prob_with_cp(
        values, *lengths, getattr(args, "qkv_format", "thd"), longest and longest[position]
    )


@cache
def _tokenizer(checkpoint: str) -> Any:
    from slime.utils.processing_utils import load_tokenizer

    return load_tokenizer(checkpoint, trust_remote_code=True)  # as slime itself does
