"""The answer of `POST /credit`: the credit of each rollout, or why it could not be credited."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from capo_wire.base import ResponseModel

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
    """Whether the final answer is right, as a number in [0, 1]."""

    value: float
    source: Literal["caller", "math_verify"]
    # A plain text, so that a client takes reasons that are added later.
    reason: str | None = Field(
        default=None,
        description="Why the answer could not be checked, where the value is 0 for that: "
        + ", ".join(f"`{reason}`" for reason in get_args(Unchecked))
        + ".",
    )
    detail: str | None = Field(default=None, description="The reason, as a sentence.")


class Votes(ResponseModel):
    """How a step was voted on."""

    wrong: int = Field(description="Valid critiques that call the step wrong.")
    valid: int = Field(
        description="Critiques that could be read; for a step with a false equation also the "
        "symbolic critic's votes."
    )
    asked: int = Field(description="Critiques that the request asked of the judge.")


class Step(ResponseModel):
    """One step of the rollout and its credit."""

    index: int
    span: tuple[int, int] = Field(description="Characters of the response.")
    token_span: tuple[int, int] | None = Field(description="Tokens; null where none were sent.")
    wrong: bool
    penalty: float = Field(description="Share of w_process that is taken away, in [0, 1].")
    votes: Votes
    reward: float


class Critique(ResponseModel):
    """What the judge wrote."""

    text: str
    wrong_steps: list[int] | None = Field(description="Null where it could not be read.")
    valid: bool
    finish_reason: str
    reason: str | None = Field(default=None, description="Why it could not be read.")
    critic: Literal["judge", "symbolic"] = Field(
        default="judge",
        description="symbolic: the arithmetic of steps was checked. It votes against the steps "
        "that it names, and abstains on the others.",
    )
    weight: int = Field(default=1, description="Votes that it casts.")


class Usage(ResponseModel):
    """Tokens of the judge; prompt tokens count once for each critique."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    critiques_run: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            critiques_run=self.critiques_run + other.critiques_run,
        )


class Problem(ResponseModel):
    """An error, as RFC 9457 `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = Field(default=None, description="The part of the request at fault.")


class Suspicion(ResponseModel):
    """A reason to distrust a rollout: it looks like gaming a judge, whatever the votes say."""

    reason: str = Field(
        description="near_empty, master_key, step_splitting, padding, repetition, "
        "language_switch, hidden_text, imitation, instruction."
    )
    detail: str
    action: str = Field(
        description="What was done: flag (nothing), cap (these steps earn no more than the worst "
        "other), wrong (these steps count as wrong)."
    )
    steps: list[int] | None = Field(default=None, description="Null for the whole rollout.")


class Credited(ResponseModel):
    """The credit of one rollout."""

    id: str
    status: Literal["ok"] = "ok"
    outcome: Outcome | None = Field(description="Null under `process_only` without an outcome.")
    steps: list[Step]
    token_rewards: list[float] | None = Field(
        default=None, description="One number per token that was sent."
    )
    critiques: list[Critique] | None = None
    response: str | None = None
    usage: Usage
    suspicion: list[Suspicion] = Field(
        default=[], description="Reasons to distrust the rollout; empty for none."
    )
    cached: bool = Field(
        default=False,
        description="Not judged for this request: an identical rollout was in flight, or its "
        "result was in the result cache (setting result_cache_seconds); `usage` is then 0.",
    )


class Failed(ResponseModel):
    """Why one rollout could not be credited."""

    id: str
    status: Literal["error"] = "error"
    error: Problem


Result = Annotated[Credited | Failed, Field(discriminator="status")]


class Timing(ResponseModel):
    """Milliseconds: waiting for a place, the judge (both at their longest), and all."""

    queue: float
    engine: float
    total: float


class CreditSummary(ResponseModel):
    """What goes with the results; the last line of an NDJSON stream."""

    id: str
    model: str
    usage: Usage
    timing_ms: Timing


class CreditResponse(CreditSummary):
    """The answer of `POST /credit`: results in the order of the request."""

    results: list[Result]
