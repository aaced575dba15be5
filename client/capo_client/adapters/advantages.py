"""Token rewards -> token advantages, for frameworks that have none of their own (needs torch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Scale = Literal["group", "batch", "none"]

# Below this, rewards are equal but for rounding, and there is nothing to prefer.
_EQUAL = 1e-6


def token_advantages(
    rewards: Any, mask: Any, groups: Sequence[object], scale: Scale = "group"
) -> Any:
    """Eq. 2 of CAPO: rewards less the mean of their group, over its standard deviation.

    Args:
        rewards: (B, T) tensor of token rewards.
        mask: (B, T), true at tokens that the policy sampled and that have credit.
        groups: B keys; rollouts of one question have the same.
        scale: what is divided by: the `group`'s standard deviation as in the paper, that of the
            whole `batch`, or nothing. Means are always those of the group. Both are taken over
            all tokens that the mask holds, and the deviation divides by their count.

    Returns:
        (B, T) float32 tensor, 0 where the mask is false, and where all rewards that count are
        equal.
    """
    import torch

    mask = mask.bool()
    values = rewards.double().masked_fill(~mask, 0.0)
    result = torch.zeros_like(values)
    rows: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    for members in rows.values():
        among = mask[members]
        chosen = values[members][among]
        if not chosen.numel():
            continue
        centred = values[members] - chosen.mean()
        if scale == "group":
            deviation = chosen.std(correction=0)
            centred = centred / deviation if deviation > _EQUAL else torch.zeros_like(centred)
        result[members] = centred.masked_fill(~among, 0.0)
    if scale == "batch" and mask.any():
        deviation = values[mask].std(correction=0)
        result = result / deviation if deviation > _EQUAL else torch.zeros_like(result)
    return result.float()
