"""One rollout and its reward, in the terms of frameworks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import capo_wire as wire
from capo_client import errors
from capo_client.adapters.turns import check_count
from capo_wire.aggregate import agreement, log_metrics, mean_reward, turn_rewards


@dataclass(frozen=True, slots=True)
class Sample:
    """One rollout, in the terms of frameworks.

    Attributes:
        prompt: text or chat messages, with tool calls and tool results.
        ids: the T token ids of the response or trajectory without padding; each gets a reward.
        text: the response, in place of ids; gets one reward.
        turns: the trajectory as chat messages, in place of ids and text; gets one reward.
        mask: T flags, 0 for ids that a tool or the environment wrote: the judge sees them as
            observations, and they get 0.0. None: the policy wrote all of them.
        tools: the tools that the policy may call, as its chat template has them.
        reference: the label as the data has it: text, a number or a list (see `reference_of`).
        outcome: r_v in [0, 1], in place of a reference.
    """

    prompt: str | Sequence[dict[str, Any]]
    ids: Sequence[int] | None = None
    text: str | None = None
    turns: Sequence[Mapping[str, Any]] | None = None
    mask: Sequence[Any] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    reference: Any = None
    outcome: float | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The reward of one rollout.

    Attributes:
        token_rewards: T numbers, one for each id, 0.0 where its mask is 0; None without ids or
            without credit.
        reward: the mean over the policy's own ids; without ids, the mean over characters. None:
            there is no credit, and the framework should leave the rollout out.
        outcome: r_v in [0, 1], where known.
        steps: the number of steps.
        wrong: the number of wrong steps.
        agreement: share of critiques on the larger side, mean over steps, in [0.5, 1]; None for
            fewer than two critiques.
        suspicion: why the rollout may be gaming the judge, by the names of the wire.
        source: `judge`, or what the fallback gave: `outcome` or `none`.
        error: why the judge's credit is missing.
        turn_rewards: the mean reward of each turn of the policy that has text; None where the
            judge gave none.
    """

    token_rewards: list[float] | None
    reward: float | None
    outcome: float | None = None
    steps: int = 0
    wrong: int = 0
    agreement: float | None = None
    suspicion: tuple[str, ...] = ()
    source: Literal["judge", "outcome", "none"] = "judge"
    error: str | None = None
    turn_rewards: list[float] | None = None

    def metrics(self) -> dict[str, float]:
        """Numbers for a framework's own metrics, by the names in `METRICS`.

        Unknown ones are left out; of a rollout without credit, only `capo_fallback` is known.
        """
        return log_metrics(
            self.steps, self.wrong, self.agreement, self.source == "judge", bool(self.suspicion)
        )


def checked(result: wire.Result, flags: list[bool] | None) -> wire.Result | Exception:
    """The result, or an error if it does not have one reward for each token that was sent."""
    if isinstance(result, wire.Credited) and flags is not None:
        try:
            check_count(result.token_rewards or (), flags)
        except ValueError as error:
            return errors.InvalidResponseError(str(error))
    return result


def from_credit(result: wire.Credited, flags: list[bool] | None) -> Scored:
    """The reward of a rollout that the judge credited."""
    return Scored(
        token_rewards=None if flags is None else result.token_rewards,
        reward=mean_reward(result),
        outcome=None if result.outcome is None else result.outcome.value,
        steps=len(result.steps),
        wrong=sum(step.wrong for step in result.steps),
        agreement=agreement(result.steps),
        suspicion=tuple(suspicion.reason for suspicion in result.suspicion),
        turn_rewards=turn_rewards(result),
    )


def constant(
    value: float,
    flags: list[bool] | None,
    outcome: float,
    source: Literal["judge", "outcome"],
    error: str | None,
) -> Scored:
    """The same reward for every token of the policy."""
    rewards = None if flags is None else [value if own else 0.0 for own in flags]
    return Scored(rewards, value, outcome, source=source, error=error)
