"""The response of `POST /credit`: the credit of each rollout, or why it was not credited."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from capo_wire.base import ResponseModel
from capo_wire.criteria import CriterionAnswer, CriterionCredit

Unchecked = Literal[
    "no_answer",
    "unfinished_thought",
    "unreadable_answer",
    "comparison_failed",
    "timeout",
    "memory",
    "worker_died",
]


class Outcome(ResponseModel):
    """Whether the final answer is right: r_v in [0, 1]."""

    value: float
    source: Literal["caller", "math_verify"]
    # A plain string, so that clients accept reasons that are added later.
    reason: str | None = Field(
        default=None,
        description="Why the answer could not be checked; the value is then 0: "
        + ", ".join(f"`{reason}`" for reason in get_args(Unchecked))
        + ".",
    )
    detail: str | None = Field(default=None, description="The reason as a sentence.")


class Votes(ResponseModel):
    """The votes on a step."""

    wrong: int = Field(
        description="Votes that the step is wrong; of exact votes, the verdicts that were read."
    )
    valid: int = Field(
        description="All valid votes: those of parsed critiques and, on a step with a false "
        "equation, those of the arithmetic checker."
    )
    asked: int = Field(
        description="Critiques that were requested; of exact votes, the maximum number of requests."
    )
    share: float | None = Field(
        default=None,
        description="Exact votes: the share of infinitely many critiques that would call the step "
        "wrong. An early decision of `majority` fixes only on which side of 1/2 it is.",
    )


class Step(ResponseModel):
    """A step of the rollout and its credit."""

    index: int
    span: tuple[int, int] = Field(description="Character span in the response.")
    token_span: tuple[int, int] | None = Field(
        description="Token span; null if no tokens were sent."
    )
    wrong: bool
    penalty: float = Field(description="Share of `w_process` that is subtracted, in [0, 1].")
    votes: Votes
    reward: float
    turn: int = Field(
        default=0, description="The turn of the trajectory, counting the policy's own from 0."
    )


class Observation(ResponseModel):
    """Text of a trajectory that the policy did not write."""

    span: tuple[int, int] = Field(description="Character span in the response.")
    left_out: int = Field(
        default=0, description="How many of its characters the judge was not shown."
    )


class Critique(ResponseModel):
    """One critique of the judge, or of the arithmetic checker."""

    text: str
    thinking: str | None = Field(
        default=None, description="The judge's thought; only if `include` names `thinking`."
    )
    thinking_tokens: int = 0
    thinking_truncated: bool = Field(
        default=False, description="Whether the thought reached its budget and was ended there."
    )
    wrong_steps: list[int] | None = Field(description="Null if it could not be parsed.")
    criteria: list[CriterionAnswer] | None = Field(
        default=None, description="Its verdict on each criterion that it was asked about."
    )
    valid: bool
    finish_reason: str
    reason: str | None = Field(default=None, description="Why it could not be parsed.")
    critic: Literal["judge", "symbolic"] = Field(
        default="judge",
        description="`symbolic`: the arithmetic checker, which votes against steps with a false "
        "equation and abstains on the others.",
    )
    weight: int = Field(default=1, description="Number of votes that it casts.")
    share: float | None = Field(
        default=None, description="Exact votes: the probability that the judge gives this verdict."
    )
    window: int = Field(
        default=0,
        description="The window that it judged, from 0. `text` counts steps from the window's "
        "first, `wrong_steps` from the rollout's.",
    )
    judged_steps: tuple[int, int] | None = Field(
        default=None,
        description="First step of that window, and the step after its last; null if the rollout "
        "was judged as a whole.",
    )


class Usage(ResponseModel):
    """Judge tokens; prompt tokens are counted for each critique."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = Field(
        default=0, description="Tokens of thoughts; `completion_tokens` includes them."
    )
    critiques_run: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            thinking_tokens=self.thinking_tokens + other.thinking_tokens,
            critiques_run=self.critiques_run + other.critiques_run,
        )


class Problem(ResponseModel):
    """An error as `application/problem+json` (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = Field(
        default=None, description="The field of the request that is at fault."
    )


class Suspicion(ResponseModel):
    """A reward-hacking check that a rollout failed, independent of the votes."""

    reason: str = Field(
        description="near_empty, master_key, step_splitting, padding, repetition, "
        "language_switch, hidden_text, imitation, instruction."
    )
    detail: str
    action: str = Field(
        description="What was done: flag (nothing else), cap (these steps earn at most the reward "
        "of the worst other step), wrong (these steps count as wrong)."
    )
    steps: list[int] | None = Field(
        default=None, description="The steps concerned; null for the whole rollout."
    )


class ExactReading(ResponseModel):
    """How completely exact votes were computed."""

    decided: bool = Field(
        description="False if the limit of requests (`voting.n`) ended it before the vote was "
        "decided. Shares then count only the verdicts that were read."
    )
    unread: float = Field(
        description="Probability of the verdicts that were not read; in windows, the largest."
    )


class Credited(ResponseModel):
    """The credit of one rollout."""

    id: str
    status: Literal["ok"] = "ok"
    outcome: Outcome | None = Field(
        description="Null for the schemes `process_only` and `criteria` without an outcome."
    )
    steps: list[Step]
    token_rewards: list[float] | None = Field(
        default=None,
        description="One reward per token that was sent; 0.0 where `response_mask` is 0.",
    )
    observations: list[Observation] | None = Field(
        default=None, description="What the policy did not write; null if it wrote everything."
    )
    criteria: list[CriterionCredit] | None = Field(
        default=None, description="The rollout's criteria in their order; null if it has none."
    )
    exact: ExactReading | None = Field(
        default=None, description="Only with `voting.exact`: how complete its shares are."
    )
    critiques: list[Critique] | None = Field(
        default=None, description="With `voting.exact`, one for each verdict that was read."
    )
    response: str | None = None
    windows: int = Field(
        default=1,
        description="Number of windows of consecutive steps in which it was judged; 1 if it was "
        "judged as a whole.",
    )
    usage: Usage
    suspicion: list[Suspicion] = Field(
        default=[], description="Reward-hacking checks that the rollout failed."
    )
    cached: bool = Field(
        default=False,
        description="True if the rollout was not judged for this request, because an identical one "
        "was in flight or its result was in the result cache (setting result_cache_seconds). "
        "`usage` is then 0.",
    )


class Failed(ResponseModel):
    """Why a rollout was not credited."""

    id: str
    status: Literal["error"] = "error"
    error: Problem


Result = Annotated[Credited | Failed, Field(discriminator="status")]


class Timing(ResponseModel):
    """Max queue time and max judge time over the batch, and total, in ms."""

    queue: float
    engine: float
    total: float


class CreditSummary(ResponseModel):
    """What accompanies the results; the last line of an NDJSON stream."""

    id: str
    model: str
    usage: Usage
    timing_ms: Timing


class CreditResponse(CreditSummary):
    """The response of `POST /credit`, with results in request order."""

    results: list[Result]
