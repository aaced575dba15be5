"""Outcome and voted steps -> step rewards -> token rewards.

| scheme            | reward of step s, with penalty p_s in [0, 1] and outcome r_v in [0, 1]      |
|-------------------|------------------------------------------------------------------------------|
| `capo`            | r_v * W_whole - p_s * W_process (CAPO, eq. 1)                               |
| `process_only`    | -p_s * W_process; needs no outcome                                          |
| `first_error`     | as `capo`, but every step from the first wrong step on is penalised (VPPO)  |
| `flawed_positive` | r_v * (W_whole - max(p) * W_process): a correct answer with wrong steps is   |
|                   | penalised as a whole, a wrong answer is not penalised twice (FAPO)          |
| `criteria`        | as `capo`, plus the amounts of the criteria that hold at step s or for the  |
|                   | whole (`core.criteria`); without an outcome r_v * W_whole is left out        |
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from capo_service.core.steps import Span

Scheme = Literal["capo", "process_only", "first_error", "flawed_positive", "criteria"]


def step_rewards(
    scheme: Scheme,
    penalties: Sequence[float],
    outcome: float | None,
    w_whole: float,
    w_process: float,
    by_criteria: Sequence[float] = (),
) -> list[float]:
    """The reward of each step, which each of its tokens gets (CAPO, eq. 1).

    Args:
        scheme: see the module's table.
        penalties: that of each step, 0 to 1.
        outcome: that of the final answer, 0 to 1.
        w_whole: weight of the outcome.
        w_process: weight of the penalties.
        by_criteria: for scheme `criteria`, what the criteria add to each step.

    Raises:
        ValueError: the scheme needs an outcome and there is none.
    """
    if scheme == "process_only":
        return [0.0 - penalty * w_process for penalty in penalties]
    if scheme == "criteria":
        whole = 0.0 if outcome is None else outcome * w_whole
        pairs = zip(penalties, by_criteria, strict=True)
        return [whole - penalty * w_process + added for penalty, added in pairs]
    if outcome is None:
        raise ValueError(f"reward scheme {scheme!r} needs an outcome")
    if scheme == "first_error":
        penalties = list(accumulate(penalties, max))
    if scheme == "flawed_positive":
        penalties = [outcome * max(penalties)] * len(penalties)
    return [outcome * w_whole - penalty * w_process for penalty in penalties]


def token_rewards(rewards: Sequence[float], token_spans: Sequence[Span], count: int) -> list[float]:
    """One reward for each of `count` tokens: that of the token's step, 0.0 outside the steps.

    Raises:
        ValueError: there are not as many spans as rewards.
    """
    out: list[float] = []
    for reward, (start, end) in zip(rewards, token_spans, strict=True):
        out += [0.0] * (start - len(out))
        out += [reward] * (end - start)
    return out + [0.0] * (count - len(out))
