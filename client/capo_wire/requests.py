"""The body of `POST /credit`: rollouts, and the options for all of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    StrictInt,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from capo_wire.base import (
    CritiqueStyle,
    Include,
    Priority,
    RequestModel,
    RewardScheme,
    SegmentMethod,
    SpanField,
    TokenIdField,
    VotingMethod,
)
from capo_wire.criteria import Criterion, check_ids

DEFAULT_CRITIQUES = 4
DEFAULT_READS = 16
MOST_CRITIQUES = 64


class TextPart(RequestModel):
    """One part of a chat turn's content; only text can be judged."""

    type: Literal["text"]
    text: str


class ChatTurn(RequestModel):
    """One turn of the conversation that the rollout answers."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    content: str | list[TextPart]

    def text(self) -> str:
        """The turn's text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Rollout(RequestModel):
    """One sampled response to one question."""

    id: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        default=None,
        description="Echoed in the result. Default: the position in the batch, as a string.",
    )
    question: str | None = Field(
        default=None, description="The question. Give exactly one of `question` and `messages`."
    )
    messages: Annotated[list[ChatTurn], Field(min_length=1)] | None = Field(
        default=None,
        description="The conversation that the rollout answers, in place of `question`.",
    )
    response: str | None = Field(
        default=None,
        description="The rollout's text. Optional with `response_token_ids` and `tokenizer`: the "
        "service then decodes the ids.",
    )
    response_token_ids: list[TokenIdField] | None = Field(
        default=None, description="The sampled token ids; `token_rewards` has one number for each."
    )
    tokenizer: str | None = Field(
        default=None,
        description="The tokenizer of `response_token_ids`, by a name that `GET /info` lists. Give "
        "exactly one of `tokenizer` and `token_offsets` with ids.",
    )
    token_offsets: list[SpanField] | None = Field(
        default=None,
        description="The character span of each token in `response`, from the caller's own "
        "tokenizer; empty for a token without text.",
    )
    reference: str | None = Field(
        default=None,
        description="Reference answer or solution. Without `outcome`, the response's final answer "
        "is verified against it. The judge sees it if `show_reference` is true.",
    )
    outcome: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Verified outcome r_v in [0, 1]. Default: verified from `reference`.",
    )
    steps: list[SpanField] | None = Field(
        default=None, description="The caller's own step spans, used instead of `segment`."
    )
    criteria: list[Criterion] | None = Field(
        default=None,
        description="What this response is judged by, in addition to the correctness of its steps; "
        "an empty list is the same as none.",
    )

    @field_validator("response_token_ids", "token_offsets", "steps", mode="wrap")
    @classmethod
    def _from_arrays(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        """In Python these may be numpy arrays or torch tensors, or lists of them."""
        try:
            return check(value)
        except ValidationError:
            plain = _plain(value)
            if plain is value:
                raise
            return check(plain)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.question is None) == (self.messages is None):
            raise ValueError("give exactly one of question and messages")
        if self.response_token_ids is None:
            if self.tokenizer is not None:
                raise ValueError(
                    "tokenizer needs response_token_ids: the service never tokenizes a response "
                    "again; send the sampled ids, or token_offsets"
                )
            if self.response is None:
                raise ValueError("give response, or response_token_ids and tokenizer")
        elif (self.tokenizer is None) == (self.token_offsets is None):
            raise ValueError(
                "response_token_ids needs exactly one of tokenizer (a name from GET /info) and "
                "token_offsets"
            )
        if self.token_offsets is not None:
            if self.response is None:
                raise ValueError("token_offsets needs response: offsets are positions in it")
            ids = self.response_token_ids
            if ids is not None and len(ids) != len(self.token_offsets):
                raise ValueError(
                    f"response_token_ids has {len(ids)} ids but token_offsets has "
                    f"{len(self.token_offsets)} spans"
                )
        check_ids(self.criteria or ())
        return self

    def prompt_text(self) -> str:
        """The question as one text: a single user turn as it is, several turns with their roles."""
        if self.question is not None:
            return self.question
        turns = self.messages or []
        if len(turns) == 1 and turns[0].role == "user":
            return turns[0].text()
        return "\n\n".join(f"{turn.role}: {turn.text()}" for turn in turns)


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists and numbers; without any, the value itself."""
    if callable(convert := getattr(value, "tolist", None)):
        return convert()
    if isinstance(value, list | tuple):
        plain = [_plain(each) for each in value]
        if any(a is not b for a, b in zip(plain, value, strict=True)):
            return plain
    return value


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

    method: SegmentMethod = Field(
        default="blank_line",
        description="Where to cut. Lines end in `\\n` or `\\r\\n`; a single `\\r` is a blank.",
    )
    pattern: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = Field(
        default=None, description="For method `regex` only: an RE2 pattern (no look-around)."
    )
    cut: Literal["before", "after"] = Field(
        default="before", description="For method `regex`: cut before or after each match."
    )
    max_steps: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="Merge short neighbouring steps until there are at most so many."
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
