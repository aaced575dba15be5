"""One number for a rollout, for frameworks that take no more, and figures for their logs."""

from __future__ import annotations

from collections.abc import Sequence

from capo_wire import Credited


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
    """Share of critiques on the larger side, in [0.5, 1]: the mean over steps.

    None where a step has fewer than two valid critiques, which agree with nothing.
    """
    votes = [step.votes for step in result.steps]
    if not votes or min(each.valid for each in votes) < 2:
        return None
    sides = [max(each.wrong, each.valid - each.wrong) / each.valid for each in votes]
    return sum(sides) / len(sides)


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
    """Numbers for a framework's own metrics, of the names in METRICS.

    A number that is not known is left out, and has no part in a mean: of a rollout that was not
    credited only `capo_fallback` is known, and without steps there is no rate.
    """
    if not credited:
        return {"capo_fallback": 1.0}
    found = {
        "capo_fallback": 0.0,
        "capo_steps": float(steps),
        "capo_wrong_steps": float(wrong),
        "capo_suspicious": float(suspicious),
    }
    if steps:
        found["capo_wrong_step_rate"] = wrong / steps
    if agreed is not None:
        found["capo_agreement"] = agreed
    return found


def columns(rows: Sequence[dict[str, float]]) -> dict[str, list[float | None]]:
    """Metrics of n rollouts -> n numbers for each name that one of them has; None where unknown."""
    names = [name for name in METRICS if any(name in row for row in rows)]
    return {name: [row.get(name) for row in rows] for name in names}
