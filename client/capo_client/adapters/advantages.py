"""Token rewards -> token advantages, for frameworks without token-level ones (needs torch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

AdvantageScale = Literal["group", "batch", "none"]

# A standard deviation below this is rounding: all rewards are equal.
_EQUAL = 1e-6


def token_advantages(
    rewards: Any, mask: Any, groups: Sequence[object], scale: AdvantageScale = "group"
) -> Any:
    """Eq. 2 of CAPO: rewards minus the mean of their group, divided by its standard deviation.

    Args:
        rewards: token rewards of shape (B, T).
        mask: of shape (B, T), true at tokens that the policy sampled and that have credit.
        groups: B keys, equal for rollouts of one question.
        scale: the divisor: the standard deviation of the `group` as in the paper, of the `batch`,
            or `none`. The mean is always that of the group. Both are over all masked-in tokens;
            the standard deviation is the population's (it divides by their count).

    Returns:
        A float32 tensor of shape (B, T); 0 where the mask is false, or all rewards are equal.
    """
    import torch

    mask = mask.bool()
    values = rewards.double().masked_fill(~mask, 0.0)
    result = torch.zeros_like(values)
    rows: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    for members in rows.values():
        group_mask = mask[members]
        chosen = values[members][group_mask]
        if not chosen.numel():
            continue
        centred = values[members] - chosen.mean()
        if scale == "group":
            deviation = chosen.std(correction=0)
            centred = centred / deviation if deviation > _EQUAL else torch.zeros_like(centred)
        result[members] = centred.masked_fill(~group_mask, 0.0)
    if scale == "batch" and mask.any():
        deviation = values[mask].std(correction=0)
        result = result / deviation if deviation > _EQUAL else torch.zeros_like(result)
    return result.float()
