"""One number for a rollout, for frameworks that take no more, and figures for their logs."""

from __future__ import annotations

from capo_client.wire import Credited


def mean_reward(result: Credited) -> float:
    """The mean of the token rewards; where no tokens were sent, the mean over characters.

    Under eq. 1 that is w_whole * r_v - w_process * (share of tokens in wrong steps).
    """
    if result.token_rewards:
        return sum(result.token_rewards) / len(result.token_rewards)
    sizes = [step.span[1] - step.span[0] for step in result.steps]
    weighed = sum(step.reward * size for step, size in zip(result.steps, sizes, strict=True))
    return weighed / max(sum(sizes), 1)


def agreement(result: Credited) -> float | None:
    """Share of critiques on the larger side, in [0.5, 1]: the mean over steps that have votes."""
    sides = [
        max(step.votes.wrong, step.votes.valid - step.votes.wrong) / step.votes.valid
        for step in result.steps
        if step.votes.valid
    ]
    return sum(sides) / len(sides) if sides else None


def log_metrics(
    steps: int, wrong: int, agreed: float | None, credited: bool, suspicious: bool
) -> dict[str, float]:
    """Numbers for a framework's own metrics; the same names for every rollout."""
    return {
        "capo_fallback": float(not credited),
        "capo_steps": float(steps),
        "capo_wrong_steps": float(wrong),
        "capo_wrong_step_rate": wrong / steps if steps else 0.0,
        "capo_agreement": 1.0 if agreed is None else agreed,
        "capo_suspicious": float(suspicious),
    }
