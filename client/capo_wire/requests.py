"""The body of `POST /credit`: rollouts, and the options for all of them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, StringConstraints, model_validator

from capo_wire.base import (
    CritiqueStyle,
    Include,
    Priority,
    RequestModel,
    RewardScheme,
    SegmentMethod,
    VotingMethod,
)
from capo_wire.rollouts import Rollout

DEFAULT_CRITIQUES = 4
DEFAULT_READS = 16
MOST_CRITIQUES = 64


class Voting(RequestModel):
    """How critiques are sampled, and how they vote on steps (CAPO, section 3.3)."""

    method: VotingMethod = "majority"
    n: Annotated[StrictInt, Field(ge=1, le=MOST_CRITIQUES)] | None = Field(
        default=None,
        description="Number of critiques to sample, k in the paper. Default: "
        f"{DEFAULT_CRITIQUES}, and 1 for `greedy`. With `exact`, the maximum number of requests to "
        f"the judge, default {DEFAULT_READS}.",
    )
    exact: bool = Field(
        default=False,
        description="Compute each step's vote share exactly, as of infinitely many critiques, from "
        "the judge's token probabilities, instead of sampling. Needs critique style `verdict` "
        "(which it implies), method `majority` or `average`, a judge that does not think, and "
        "engine `vllm`; `seed` has no effect.",
    )
    early_stop: bool = Field(
        default=True,
        description="Skip critiques that can no longer change any step's penalty or any criterion.",
    )
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        default=None, description="Default: the judge profile's (0.7 in `default`)."
    )
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Default: the judge profile's (0.9 in `default`)."
    )
    max_tokens: Annotated[StrictInt, Field(ge=1, le=1 << 20)] = Field(
        default=2048,
        description="Maximum tokens of a critique without its thought; an analysis is shortened to "
        "fit.",
    )
    thinking_tokens: Annotated[StrictInt, Field(ge=0, le=1 << 20)] | None = Field(
        default=None,
        description="Maximum tokens that the judge may think before each critique, in addition to "
        "`max_tokens`; 0: none. Default: the service's setting.",
    )
    seed: Annotated[StrictInt, Field(ge=0, lt=1 << 53)] | None = None
    critique_style: CritiqueStyle | None = Field(
        default=None, description="Length of a critique's analysis. Default: the service's setting."
    )
    criteria_dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Probability with which each criterion is left out. Chosen by question and "
        "`seed`, so that all rollouts of a question are judged by the same ones; at least one "
        "stays.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.exact:
            self._check_exact()
        if self.method == "greedy" and self.n not in (None, 1):
            raise ValueError(
                "greedy takes one critique, at temperature 0: leave n out, or choose another method"
            )
        if self.method != "greedy" and self.temperature == 0 and self.critiques > 1:
            raise ValueError(
                f"temperature 0 would sample {self.critiques} copies of one critique: raise "
                "temperature, or use method greedy"
            )
        return self

    def _check_exact(self) -> None:
        if self.method not in ("majority", "average"):
            raise ValueError(
                f"exact votes are those of infinitely many critiques, for which {self.method} has "
                "no meaning: use method majority or average, or leave exact out"
            )
        if self.critique_style not in (None, "verdict"):
            raise ValueError(
                f"exact votes are read from bare verdicts, and a critique of style "
                f"{self.critique_style} has an analysis: use critique_style verdict, or leave "
                "exact out"
            )
        if self.thinking_tokens:
            raise ValueError(
                "exact votes are read from bare verdicts, without a thought: set thinking_tokens "
                "to 0, or leave exact out"
            )
        if self.temperature == 0:
            raise ValueError(
                "exact votes are those of critiques sampled at a temperature above 0: raise "
                "temperature, or use method greedy"
            )

    @property
    def critiques(self) -> int:
        """The number of critiques to sample; with `exact`, the maximum number of requests."""
        if self.n is not None:
            return self.n
        if self.exact:
            return DEFAULT_READS
        return 1 if self.method == "greedy" else DEFAULT_CRITIQUES


class Reward(RequestModel):
    """How the outcome and the votes become rewards (CAPO, eq. 1, and variants)."""

    scheme: RewardScheme = "capo"
    w_whole: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = 2.0
    w_process: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = 1.0
    w_criteria: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = Field(
        default=1.0, description="Scheme `criteria`: weight of all criteria of a rollout together."
    )


class Segment(RequestModel):
    """How a response is cut into steps."""

    method: SegmentMethod | None = Field(
        default=None,
        description="Where to cut. Lines end in `\\n` or `\\r\\n`; a single `\\r` is a blank. A "
        "turn is a run of the policy's own text; `turn_blank_line` cuts turns on blank lines too, "
        "and with every method a turn ends the step. Default: `turn` if the rollout has text that "
        "the policy did not write, else `blank_line`.",
    )
    pattern: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = Field(
        default=None, description="For method `regex` only: an RE2 pattern (no look-around)."
    )
    cut: Literal["before", "after"] = Field(
        default="before", description="For method `regex`: cut before or after each match."
    )
    max_steps: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None,
        description="Merge short neighbouring steps until there are at most so many; steps of "
        "different turns are never merged.",
    )
    min_characters: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="Merge steps that are shorter than this with a neighbour."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.method == "regex") != (self.pattern is not None):
            raise ValueError("pattern goes with method regex, and only with it")
        return self


class CreditOptions(RequestModel):
    """Options for all rollouts of a request."""

    voting: Voting = Voting()
    reward: Reward = Reward()
    segment: Segment = Segment()
    show_reference: bool = Field(default=True, description="Show `reference` to the judge.")
    max_observation_tokens: Annotated[StrictInt, Field(ge=16, le=1 << 20)] | None = Field(
        default=None,
        description="Maximum length of an observation in the judge's prompt, in tokens of 3 bytes; "
        "of a longer one the judge sees the beginning, the end and how much is left out between. "
        "Default: the service's setting.",
    )
    include: list[Include] = Field(
        default=["token_rewards"], description="What to return in addition to steps."
    )
    priority: Priority = Field(
        default="training",
        description="Scheduling class; under contention training gets 8/9 of judge tokens.",
    )
    run: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        default=None, description="Name of the training run; the live view can be filtered by it."
    )
    deadline_ms: Annotated[StrictInt, Field(ge=1, le=24 * 3600 * 1000)] = Field(
        default=120_000,
        description="Milliseconds from arrival; rollouts that are not done by then get status 504.",
    )


class CreditRequest(CreditOptions):
    """The body of `POST /credit`."""

    rollouts: Annotated[list[Rollout], Field(min_length=1)]
