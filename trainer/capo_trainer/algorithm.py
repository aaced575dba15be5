"""The CAPO algorithm: rewards -> advantages -> loss. Pure functions of tensors.

B is the number of rollouts, T the length of the longest. `mask` (B, T) is True at tokens that are
learnt from; values elsewhere are ignored, NaN included. `groups` (B,) gives rollouts of the same
question the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from capo_client.adapters.advantages import pass_advantages

Advantage = Literal["capo", "papo", "vppo", "pass", "rloo", "grpo", "centred"]
Average = Literal["rollout", "token"]

# Smaller differences are rounding errors.
_EQUAL = 1e-6


def advantages(
    outcome: Tensor, process: Tensor, mask: Tensor, groups: Tensor, variant: Advantage = "capo"
) -> Tensor:
    """Group-relative advantage of every token.

    Args:
        outcome: (B,) reward of the whole rollout, W_whole * r_v in eq. 1.
        process: (B, T) reward of each token in addition, -W_process * penalty in eq. 1.
        mask: (B, T) bool.
        groups: (B,) integers.
        variant: `capo`: R = outcome + process, less mean and over standard deviation, both over
            all tokens of the group (eq. 2). `papo`: outcome normalised over the group's rollouts,
            and process over the tokens of its rollouts with the better outcomes, then added (arXiv
            2603.26535). `vppo`: every token from the first penalised one on is penalised like
            it, then eq. 2 (arXiv 2601.18984). `pass`: outcome normalised over rollouts and process
            over chunks, added, summed over the chunks that remain, and divided by their number to
            the power of 0.7 (arXiv 2606.29296; `capo_client.adapters.advantages.pass_advantages`).
            `rloo`: R less the mean over all tokens of the group's other rollouts, with no scale
            (leave-one-out, arXiv 2402.14740).
            `grpo`: outcome alone, normalised over the group's rollouts (arXiv 2402.03300).
            `centred`: eq. 2 without its divisor.

    Returns:
        (B, T) float32, 0 where the mask is False. Standard deviations divide by the count. A group
        whose rewards are all equal gets 0, and so does a rollout alone in its group under `rloo`.
    """
    mask = mask.bool()
    outcome = outcome.double()
    process = process.double().masked_fill(~mask, 0.0)
    result = torch.zeros_like(process)
    for group in groups.unique():
        rows = groups == group
        result[rows] = _VARIANTS[variant](outcome[rows], process[rows], mask[rows])
    return result.masked_fill(~mask, 0.0).float()


def _capo(outcome: Tensor, process: Tensor, mask: Tensor) -> Tensor:
    return _normalised(outcome[:, None] + process, mask)


def _papo(outcome: Tensor, process: Tensor, mask: Tensor) -> Tensor:
    filled = mask.any(1)
    better = filled & (outcome > outcome[filled].min() + _EQUAL) if filled.any() else filled
    # Where all outcomes are equal, steps still distinguish the rollouts.
    if not better.any():
        better = filled
    among = mask & better[:, None]
    return _grpo(outcome, process, mask) + _normalised(process, among)


def _vppo(outcome: Tensor, process: Tensor, mask: Tensor) -> Tensor:
    after = (process < 0).cumsum(1) > 0
    worst = process.min(1, keepdim=True).values if process.shape[1] else process
    return _capo(outcome, torch.where(after, worst, 0.0), mask)


def _pass(outcome: Tensor, process: Tensor, mask: Tensor) -> Tensor:
    found: Tensor = pass_advantages(outcome, process, mask, [None] * len(outcome))
    return found.double()


def _centred(outcome: Tensor, process: Tensor, mask: Tensor) -> Tensor:
    rewards = outcome[:, None] + process
    chosen = rewards[mask]
    if not chosen.numel() or chosen.std(correction=0) < _EQUAL:
        return torch.zeros_like(rewards)
    return rewards - chosen.mean()


def _rloo(outcome: Tensor, process: Tensor, mask: Tensor) -> Tensor:
    rewards = outcome[:, None] + process
    sums = rewards.masked_fill(~mask, 0.0).sum(1)
    counts = mask.sum(1)
    others = counts.sum() - counts
    baseline = (sums.sum() - sums) / others.clamp(min=1)
    return torch.where(others[:, None] > 0, rewards - baseline[:, None], 0.0)


def _grpo(outcome: Tensor, process: Tensor, mask: Tensor) -> Tensor:
    filled = mask.any(1)
    return _normalised(outcome[:, None], filled[:, None]).expand_as(process)


def _normalised(values: Tensor, among: Tensor) -> Tensor:
    """Less the mean, over the standard deviation, of those `among`; 0 elsewhere."""
    chosen = values[among]
    if not chosen.numel():
        return torch.zeros_like(values)
    deviation = chosen.std(correction=0)
    if deviation < _EQUAL:
        return torch.zeros_like(values)
    return ((values - chosen.mean()) / deviation).masked_fill(~among, 0.0)


_VARIANTS: dict[Advantage, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "capo": _capo,
    "papo": _papo,
    "vppo": _vppo,
    "pass": _pass,
    "rloo": _rloo,
    "grpo": _grpo,
    "centred": _centred,
}


def genorm_reward(outcome: Tensor, judged: Tensor, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """Generative outcome reward, the baseline of eq. 3: sigmoid(alpha r_m) + (beta r_v - 1).

    Args:
        outcome: (B,) r_v, the verified outcome.
        judged: (B,) r_m, the judge's score of the whole rollout.
    """
    return torch.sigmoid(alpha * judged) + (beta * outcome - 1)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantage: Tensor,
    mask: Tensor,
    clip: tuple[float, float] = (0.2, 0.2),
) -> Tensor:
    """PPO's clipped loss of every token, (B, T): -min(r A, clip(r, 1 - low, 1 + high) A).

    Gradients flow through `logprobs` alone; r = exp(logprobs - old_logprobs).
    """
    low, high = clip
    ratio = _masked(logprobs - old_logprobs.detach(), mask).exp()
    weight = _masked(advantage.detach(), mask)
    return -torch.minimum(ratio * weight, ratio.clamp(1 - low, 1 + high) * weight)


def kl_to_reference(logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """KL(policy || reference) at every token, (B, T), by the k3 estimator: never negative.

    With d = reference - logprobs: exp(d) - d - 1 (Schulman, Approximating KL Divergence).
    """
    difference = _masked(reference.detach() - logprobs, mask)
    return difference.exp() - difference - 1


def clipped(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantage: Tensor,
    clip: tuple[float, float] = (0.2, 0.2),
) -> Tensor:
    """Where the clip stops the gradient, (B, T) bool."""
    ratio = (logprobs - old_logprobs).exp()
    low, high = clip
    return ((ratio > 1 + high) & (advantage > 0)) | ((ratio < 1 - low) & (advantage < 0))


def token_weights(mask: Tensor, average: Average = "rollout", total: float | None = None) -> Tensor:
    """Weight of each token in the loss, (B, T); the loss is the weighted sum over tokens.

    Args:
        mask: (B, T) bool.
        average: `rollout`: 1/n sum_i 1/L_i sum_t, the paper's. `token`: the same for all tokens.
        total: number of rollouts with a token (`rollout`) or of tokens (`token`) in the whole
            batch, where this is a part of it. Default: this is the whole batch.
    """
    mask = mask.bool()
    if total is None:
        total = float(weight_total(mask, average))
    weights = mask.float()
    if average == "rollout":
        weights = weights / mask.sum(1, keepdim=True).clamp(min=1)
    return weights / max(total, 1.0)


def weight_total(mask: Tensor, average: Average) -> Tensor:
    """`total` of `token_weights` for this part of a batch; totals of parts add up."""
    return mask.any(1).sum() if average == "rollout" else mask.sum()


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """0 where the mask is False, in gradients too, even where a value is not finite."""
    return torch.where(mask.bool(), values, torch.zeros_like(values))
