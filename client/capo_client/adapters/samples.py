"""One rollout on its way to the service and back, in the terms of frameworks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import capo_wire as wire
from capo_client import errors
from capo_client._request_state import Answer
from capo_client.adapters.turns import check_count, spread
from capo_wire.aggregate import agreement, log_metrics, mean_reward


@dataclass(frozen=True, slots=True)
class Sample:
    """One rollout, in the terms that frameworks have for it.

    Attributes:
        prompt: text or chat messages.
        ids: the T sampled token ids without padding, to get a reward for each of them.
        text: in place of ids; gives one reward for the whole.
        mask: T flags, 0 for ids that a tool or the environment wrote: they are not sent and get
            0.0. None: the policy wrote them all.
        reference: the label as the data has it: text, a number or a list (see `reference_of`).
        outcome: r_v in [0, 1], in place of a reference.
    """

    prompt: str | Sequence[dict[str, Any]]
    ids: Sequence[int] | None = None
    text: str | None = None
    mask: Sequence[Any] | None = None
    reference: Any = None
    outcome: float | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The reward of one rollout.

    Attributes:
        token_rewards: T numbers, one for each id that was given, 0.0 where its mask is 0; None
            without ids or credit.
        reward: the mean over the policy's own ids; without ids, the mean over characters. None:
            there is no credit, and the framework is to leave the rollout out.
        outcome: r_v in [0, 1], where known.
        steps: how many steps the rollout has.
        wrong: how many of them are wrong.
        agreement: share of critiques on the larger side, mean over steps, in [0.5, 1]; None for
            fewer than two critiques.
        suspicion: reasons for which it looks like gaming the judge, by name.
        source: `judge`, or else what the fall-back made of it: `outcome` or `none`.
        error: why the judge's credit is missing.
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

    def metrics(self) -> dict[str, float]:
        """Numbers for a framework's own metrics (names in `METRICS`); what is not known is left
        out, and nothing but `capo_fallback` is known of a rollout that was not judged."""
        return log_metrics(
            self.steps, self.wrong, self.agreement, self.source == "judge", bool(self.suspicion)
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What is sent for a sample, and which of its ids are the policy's own."""

    body: dict[str, Any] | None = None  # None: there is nothing to judge
    flags: list[bool] | None = None
    outcome: float | None = None
    error: Exception | None = None  # why it cannot be sent


def outcome_of(value: Any) -> float | None:
    """r_v; None where the data has none, which NaN says too."""
    if value is None or value != value:
        return None
    outcome = float(value)
    if not 0 <= outcome <= 1:
        raise ValueError(f"the outcome is {outcome}, which is not in [0, 1]")
    return outcome


def checked(answer: Answer, flags: list[bool] | None) -> Answer | Exception:
    """The answer, or an error where its rewards are not one for each token that was sent."""
    if isinstance(answer, wire.Credited) and flags is not None:
        try:
            check_count(answer.token_rewards or (), flags)
        except ValueError as error:
            return errors.InvalidResponseError(str(error))
    return answer


def from_credit(answer: wire.Credited, flags: list[bool] | None) -> Scored:
    return Scored(
        token_rewards=None if flags is None else spread(answer.token_rewards or (), flags),
        reward=mean_reward(answer),
        outcome=None if answer.outcome is None else answer.outcome.value,
        steps=len(answer.steps),
        wrong=sum(step.wrong for step in answer.steps),
        agreement=agreement(answer.steps),
        suspicion=tuple(each.reason for each in answer.suspicion),
    )


def constant(
    value: float,
    flags: list[bool] | None,
    outcome: float,
    source: Literal["judge", "outcome"],
    error: str | None,
) -> Scored:
    rewards = None if flags is None else [value if own else 0.0 for own in flags]
    return Scored(rewards, value, outcome, source=source, error=error)
