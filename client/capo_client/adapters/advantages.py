"""Token rewards -> token advantages, for frameworks without token-level ones (needs torch).

What counts in the statistics of a group:

`token`  every token that the policy sampled, as in eq. 2 of the paper. A long turn counts more.
`turn`   every turn once, whatever its length; a turn is a run of the policy's own tokens.

With random rewards (independent of turn and length) the expected advantage must be 0 for every
turn, or the policy learns to take fewer or longer turns. Without a divisor both levels keep to
that. Divided by the standard deviation, only `turn` does: where rewards are skewed, say one wrong
step in many, a turn that is longer than others has another expected advantage with `token`.
Each turn's advantage comes from its own reward. Subtracting a baseline for each turn index and
summing over turns, which is biased where the policy decides when to stop (verl issue 7244), is not
offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

AdvantageScale = Literal["group", "batch", "none"]
AdvantageLevel = Literal["token", "turn"]

# A standard deviation below this is rounding: all rewards are equal.
_EQUAL = 1e-6


def token_advantages(
    rewards: Any,
    mask: Any,
    groups: Sequence[object],
    scale: AdvantageScale = "group",
    level: AdvantageLevel = "token",
) -> Any:
    """Eq. 2 of CAPO: rewards minus the mean of their group, divided by its standard deviation.

    Args:
        rewards: token rewards of shape (B, T).
        mask: of shape (B, T), true at tokens that the policy sampled and that have credit.
        groups: B keys, equal for rollouts of one question.
        scale: the divisor: the standard deviation of the `group` as in the paper, of the `batch`,
            or `none`. The mean is always that of the group. Both are over all masked-in tokens;
            the standard deviation is the population's (it divides by their count).
        level: what counts once in mean and standard deviation: a `token` or a `turn`.

    Returns:
        A float32 tensor of shape (B, T); 0 where the mask is false, or all rewards are equal.
    """
    import torch

    mask = mask.bool()
    values = rewards.double().masked_fill(~mask, 0.0)
    weights = mask.double() if level == "token" else _turn_weights(mask)
    result = torch.zeros_like(values)
    rows: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    for members in rows.values():
        group_mask = mask[members]
        if not group_mask.any():
            continue
        mean, deviation = _statistics(values[members], weights[members])
        centred = values[members] - mean
        if scale == "group":
            centred = centred / deviation if deviation > _EQUAL else torch.zeros_like(centred)
        result[members] = centred.masked_fill(~group_mask, 0.0)
    if scale == "batch" and mask.any():
        _, deviation = _statistics(values, weights)
        result = result / deviation if deviation > _EQUAL else torch.zeros_like(result)
    return result.float()


def _statistics(values: Any, weights: Any) -> tuple[Any, Any]:
    """The weighted mean and standard deviation."""
    total = weights.sum()
    mean = (weights * values).sum() / total
    return mean, ((weights * (values - mean) ** 2).sum() / total).sqrt()


def _turn_weights(mask: Any) -> Any:
    """For each token of a turn, one over the turn's length, so that each turn has weight 1."""
    import torch

    before = torch.nn.functional.pad(mask[:, :-1], (1, 0))
    turn = (mask & ~before).long().cumsum(1)  # the number of each token's turn, from 1
    lengths = torch.zeros(mask.shape[0], mask.shape[1] + 1, dtype=torch.double, device=mask.device)
    lengths.scatter_add_(1, turn, mask.double())
    return (1 / lengths.gather(1, turn).clamp(min=1)) * mask
