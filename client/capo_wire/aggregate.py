"""One number per rollout, for frameworks that take a scalar reward, and metrics for their logs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from capo_wire.responses import Credited, Step


def mean_reward(result: Credited) -> float:
    """The mean over the policy's tokens; without tokens, the mean of step rewards over characters.

    Tokens that the policy did not write are left out. Under eq. 1 of the paper this is
    w_whole * r_v - w_process * (share of tokens in wrong steps).
    """
    return _mean(result.steps, _has_tokens(result.steps))


def turn_rewards(result: Credited) -> list[float]:
    """The mean reward of each turn of the policy, in order; one, if there are no observations.

    The mean is over the turn's tokens, or over characters, as in `mean_reward`.
    """
    has_tokens = _has_tokens(result.steps)
    turns = groupby(result.steps, key=lambda step: step.turn)
    return [_mean(list(steps), has_tokens) for _, steps in turns]


def _has_tokens(steps: Sequence[Step]) -> bool:
    spans = (step.token_span or (0, 0) for step in steps)
    return any(end > start for start, end in spans)


def _mean(steps: Sequence[Step], over_tokens: bool) -> float:
    spans = [(step.token_span or (0, 0)) if over_tokens else step.span for step in steps]
    sizes = [end - start for start, end in spans]
    total = sum(step.reward * size for step, size in zip(steps, sizes, strict=True))
    return total / max(sum(sizes), 1)


def majority_share(wrong: int, valid: int) -> float:
    """Share of the valid critiques of a step that are on the larger side, in [0.5, 1]."""
    return max(wrong, valid - wrong) / valid


def agreement(steps: Sequence[Step]) -> float | None:
    """Agreement between the critiques of a rollout: mean over its steps of `majority_share`.

    None where a step has fewer than two valid critiques. Exact votes have a share instead.
    """
    shares = [step.votes.share for step in steps if step.votes.share is not None]
    if steps and len(shares) == len(steps):
        return sum(max(share, 1 - share) for share in shares) / len(shares)
    if not steps or min(step.votes.valid for step in steps) < 2:
        return None
    return sum(majority_share(step.votes.wrong, step.votes.valid) for step in steps) / len(steps)


METRICS = (
    "capo_fallback",
    "capo_steps",
    "capo_wrong_steps",
    "capo_wrong_step_rate",
    "capo_agreement",
    "capo_suspicious",
)


def log_metrics(
    steps: int, wrong: int, agreed: float | None, credited: bool, suspicious: bool
) -> dict[str, float]:
    """Metrics of one rollout, by the names in METRICS.

    Unknown metrics are left out, so that they do not enter a mean: a rollout that was not credited
    has `capo_fallback` alone, and one without steps has no rate.
    """
    if not credited:
        return {"capo_fallback": 1.0}
    metrics = {
        "capo_fallback": 0.0,
        "capo_steps": float(steps),
        "capo_wrong_steps": float(wrong),
        "capo_suspicious": float(suspicious),
    }
    if steps:
        metrics["capo_wrong_step_rate"] = wrong / steps
    if agreed is not None:
        metrics["capo_agreement"] = agreed
    return metrics


def columns(rows: Sequence[dict[str, float]]) -> dict[str, list[float | None]]:
    """Metrics of n rollouts as columns of length n, None where unknown; empty ones are left out."""
    names = [name for name in METRICS if any(name in row for row in rows)]
    return {name: [row.get(name) for row in rows] for name in names}
