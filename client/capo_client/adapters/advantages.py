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

`pass_advantages` is another advantage, PASS (arXiv 2606.29296), which keeps outcome and process
apart. It is no function of eq. 1's sum, so it needs both.
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
    for members in _rows(groups):
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


def pass_advantages(
    outcome: Any, process: Any, mask: Any, groups: Sequence[object], exponent: float = 0.7
) -> Any:
    """PASS, Process Advantage Signal Shaping (arXiv 2606.29296, algorithms 1 to 3).

    1. Advantage Fusion: less the mean and over the standard deviation of the group, for outcomes
       over its rollouts and for process rewards over its chunks; then added, with weights of 1.
    2. Chunk-by-Value: neighbouring tokens of equal process reward are one chunk, and have one
       advantage. Two steps of equal reward are one chunk, as in the paper's text; its algorithm 2
       also cuts at the steps' ends, which these tensors do not have. For the same reason a chunk
       counts once in the statistics, where the paper counts steps.
    3. Divide-Length: the sum of a chunk and those after it, over their number to the power of
       `exponent`.

    Only the values' order and ratios within each stream matter: W_whole and W_process do not.
    A reward of the format is not a stream of its own; add it to the outcome.

    Args:
        outcome: of shape (B,), the reward of the whole rollout, W_whole * r_v in eq. 1.
        process: of shape (B, T), what the tokens get in addition, -W_process * penalty in eq. 1.
            With token rewards of the service: `token_rewards - outcome[:, None]`.
        mask: of shape (B, T), true at tokens that the policy sampled and that have credit; others
            do not interrupt a chunk.
        groups: B keys, equal for rollouts of one question.
        exponent: k of the paper's eq. 7; 0.7 is its default, 1 the mean, 0 the sum.

    Returns:
        A float32 tensor of shape (B, T); 0 where the mask is false, or all rewards are equal. Its
        mean over a group is not 0.
    """
    import torch

    mask = mask.bool()
    process = process.double().masked_fill(~mask, 0.0)
    starts = _chunk_starts(process, mask)
    filled = mask.any(1)
    fused = torch.zeros_like(process)
    for members in _rows(groups):
        fused[members] = _scores(process[members], starts[members])
        fused[members] += _scores(outcome[members].double(), filled[members])[:, None]
    own = fused.masked_fill(~starts, 0.0)
    to_go = own.sum(1, keepdim=True) - own.cumsum(1) + fused
    remaining = starts.sum(1, keepdim=True) - starts.cumsum(1) + 1
    return (to_go / remaining**exponent).masked_fill(~mask, 0.0).float()


def _chunk_starts(process: Any, mask: Any) -> Any:
    """The first token of each run of equal values; masked tokens do not interrupt a run."""
    import torch

    if not mask.shape[1]:
        return mask
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    latest = torch.where(mask, positions, -1).cummax(1).values
    before = torch.nn.functional.pad(latest[:, :-1], (1, 0), value=-1)
    change = (process - process.gather(1, before.clamp(min=0))).abs() > _EQUAL
    return mask & ((before < 0) | change)


def _scores(values: Any, among: Any) -> Any:
    """Less the mean and over the standard deviation of those `among`; 0 if they are equal."""
    import torch

    if not among.any():
        return torch.zeros_like(values)
    mean, deviation = _statistics(values, among.double())
    return (values - mean) / deviation if deviation > _EQUAL else torch.zeros_like(values)


def _rows(groups: Sequence[object]) -> list[list[int]]:
    """The rows of each group."""
    rows: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return list(rows.values())


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
