"""The body of `POST /credit`: rollouts, and the options that hold for all of them."""

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
    Span,
    TokenId,
    VotingMethod,
)

DEFAULT_CRITIQUES = 4
MOST_CRITIQUES = 64


class TextPart(RequestModel):
    """One part of a chat turn's content; only text can be judged."""

    type: Literal["text"]
    text: str


class ChatTurn(RequestModel):
    """One chat turn of the conversation that the rollout answers."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    content: str | list[TextPart]

    def text(self) -> str:
        """The turn's text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Rollout(RequestModel):
    """One sampled answer to one question, to be credited."""

    id: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        default=None, description="Echoed in the result; by default the position, as a string."
    )
    question: str | None = Field(default=None, description="The question; or give `messages`.")
    messages: Annotated[list[ChatTurn], Field(min_length=1)] | None = Field(
        default=None, description="The chat that the rollout answers; or give `question`."
    )
    response: str | None = Field(
        default=None,
        description="The rollout's text. May be left out when `response_token_ids` and "
        "`tokenizer` are given: the ids are then decoded.",
    )
    response_token_ids: list[TokenId] | None = Field(
        default=None, description="The sampled ids; rewards are aligned to exactly these."
    )
    tokenizer: str | None = Field(
        default=None,
        description="The tokenizer of the ids, by a name that `GET /info` lists; or give "
        "`token_offsets`.",
    )
    token_offsets: list[Span] | None = Field(
        default=None,
        description="The character span of each token in `response`, from the caller's own "
        "tokenizer. An empty span is a token without text.",
    )
    reference: str | None = Field(
        default=None,
        description="Reference answer or solution. Gives the outcome where none is sent, and is "
        "shown to the judge if `show_reference`.",
    )
    outcome: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Verified outcome r_v; else it is verified from `reference`."
    )
    steps: list[Span] | None = Field(
        default=None, description="The caller's own step spans; used in place of `segment`."
    )

    @field_validator("response_token_ids", "token_offsets", "steps", mode="wrap")
    @classmethod
    def _from_arrays(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        """In Python these may be numpy arrays or torch tensors, or lists that hold such."""
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
    """Arrays and tensors as lists and numbers; the value itself where it holds none."""
    if callable(convert := getattr(value, "tolist", None)):
        return convert()
    if isinstance(value, list | tuple):
        plain = [_plain(each) for each in value]
        if any(a is not b for a, b in zip(plain, value, strict=True)):
            return plain
    return value


class Voting(RequestModel):
    """How critiques are sampled and voted (CAPO, section 3.3)."""

    method: VotingMethod = "majority"
    n: Annotated[StrictInt, Field(ge=1, le=MOST_CRITIQUES)] | None = Field(
        default=None,
        description=f"Critiques to sample, k in the paper. Default: {DEFAULT_CRITIQUES}, and 1 "
        "for `greedy`.",
    )
    early_stop: bool = Field(
        default=True, description="Skip critiques that can no longer change any step's penalty."
    )
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.9
    max_tokens: Annotated[StrictInt, Field(ge=1, le=1 << 20)] = 2048
    seed: Annotated[StrictInt, Field(ge=0, lt=1 << 53)] | None = None
    critique_style: CritiqueStyle | None = Field(
        default=None, description="Length of a critique's analysis. Default: the service's."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
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

    @property
    def critiques(self) -> int:
        """How many critiques to ask for."""
        if self.n is not None:
            return self.n
        return 1 if self.method == "greedy" else DEFAULT_CRITIQUES


class Reward(RequestModel):
    """How outcome and voted steps become rewards (CAPO, eq. 1, and its neighbours)."""

    scheme: RewardScheme = "capo"
    w_whole: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = 2.0
    w_process: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = 1.0


class Segment(RequestModel):
    """How a response is cut into steps."""

    method: SegmentMethod = Field(
        default="blank_line",
        description="Lines end in `\\n` or `\\r\\n`; a lone `\\r` is a blank within a line.",
    )
    pattern: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Method `regex` only: an RE2 pattern (no look-around)."
    )
    cut: Literal["before", "after"] = Field(
        default="before", description="Method `regex`: where a match is cut."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.method == "regex") != (self.pattern is not None):
            raise ValueError("pattern goes with method regex, and only with it")
        return self


class CreditOptions(RequestModel):
    """What holds for every rollout of a request."""

    voting: Voting = Voting()
    reward: Reward = Reward()
    segment: Segment = Segment()
    show_reference: bool = Field(default=True, description="Show `reference` to the judge.")
    include: list[Include] = Field(
        default=["token_rewards"], description="What to send back beside steps."
    )
    priority: Priority = Field(
        default="training",
        description="Of nine tokens that the judge takes up, eight are of training while "
        "evaluation waits too.",
    )
    run: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        default=None, description="The training run, by which the live view can be filtered."
    )
    deadline_ms: Annotated[StrictInt, Field(ge=1, le=24 * 3600 * 1000)] = Field(
        default=120_000, description="From arrival; what is not done by then is answered by 504."
    )


class CreditRequest(CreditOptions):
    """The body of `POST /credit`."""

    rollouts: Annotated[list[Rollout], Field(min_length=1)]
