"""The wire of the reward service: the one definition, used by the service and by every client.

Positions (`steps`, `token_offsets`, `span`) count Unicode code points of `response`, as Python's
`str` does, from 0, and ends are exclusive. Requests refuse unknown fields by name; responses
ignore them, so that an older client reads a newer service.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

Position = Annotated[StrictInt, Field(ge=0)]
Span = tuple[Position, Position]
TokenId = Annotated[StrictInt, Field(ge=0)]

VotingMethod = Literal["greedy", "intersection", "majority", "union", "average"]
RewardScheme = Literal["capo", "process_only", "first_error", "flawed_positive"]
SegmentMethod = Literal["blank_line", "newline", "sentence", "regex", "given"]
Priority = Literal["training", "evaluation"]
CritiqueStyle = Literal["verdict", "brief", "full"]
Include = Literal["token_rewards", "critiques", "response"]

VERSION = 1  # of this wire; a change that is more than added fields would be 2
DEFAULT_CRITIQUES = 4
MOST_CRITIQUES = 64


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Response(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class TextPart(_Request):
    """One part of a chat turn's content; only text can be judged."""

    type: Literal["text"]
    text: str


class ChatTurn(_Request):
    """One chat turn of the conversation that the rollout answers."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    content: str | list[TextPart]

    def text(self) -> str:
        """The turn's text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Rollout(_Request):
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


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists and numbers; the value itself where it holds none."""
    if callable(convert := getattr(value, "tolist", None)):
        return convert()
    if isinstance(value, list | tuple):
        plain = [_plain(each) for each in value]
        if any(a is not b for a, b in zip(plain, value, strict=True)):
            return plain
    return value


class Voting(_Request):
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


class Reward(_Request):
    """How outcome and voted steps become rewards (CAPO, eq. 1, and its neighbours)."""

    scheme: RewardScheme = "capo"
    w_whole: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = 2.0
    w_process: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = 1.0


class Segment(_Request):
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


class CreditOptions(_Request):
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


Unchecked = Literal[
    "no_answer",
    "unfinished_thought",
    "unreadable_answer",
    "comparison_failed",
    "timeout",
    "memory",
    "worker_died",
]


class Outcome(_Response):
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


class Votes(_Response):
    """How a step was voted on."""

    wrong: int = Field(description="Valid critiques that call the step wrong.")
    valid: int = Field(
        description="Critiques that could be read; for a step with a false equation also the "
        "symbolic critic's votes."
    )
    asked: int = Field(description="Critiques that the request asked of the judge.")


class Step(_Response):
    """One step of the rollout and its credit."""

    index: int
    span: tuple[int, int] = Field(description="Characters of the response.")
    token_span: tuple[int, int] | None = Field(description="Tokens; null where none were sent.")
    wrong: bool
    penalty: float = Field(description="Share of w_process that is taken away, in [0, 1].")
    votes: Votes
    reward: float


class Critique(_Response):
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


class Usage(_Response):
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


class Problem(_Response):
    """An error, as RFC 9457 `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = Field(default=None, description="The part of the request at fault.")


class Suspicion(_Response):
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


class Credited(_Response):
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


class Failed(_Response):
    """Why one rollout could not be credited."""

    id: str
    status: Literal["error"] = "error"
    error: Problem


Result = Annotated[Credited | Failed, Field(discriminator="status")]


class Timing(_Response):
    """Milliseconds: waiting for a place, the judge (both at their longest), and all."""

    queue: float
    engine: float
    total: float


class CreditSummary(_Response):
    """What goes with the results; the last line of an NDJSON stream."""

    id: str
    model: str
    usage: Usage
    timing_ms: Timing


class CreditResponse(CreditSummary):
    """The answer of `POST /credit`: results in the order of the request."""

    results: list[Result]


class TokensRequest(_Request):
    """The body of `POST /tokens`: a text to be tokenized, or tokens to be placed in their text."""

    tokenizer: str = Field(description="A name that `GET /info` lists.")
    response: str | None = None
    response_token_ids: list[TokenId] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.response is None and self.response_token_ids is None:
            raise ValueError("give response, response_token_ids, or both")
        return self


class Tokens(_Response):
    """The answer of `POST /tokens`."""

    response: str
    response_token_ids: list[int]
    token_offsets: list[tuple[int, int]] = Field(
        description="The characters of each token; an empty span for one without text."
    )


class Recent(_Response):
    """A recently credited rollout, as `GET /live` shows it."""

    at: float = Field(description="Seconds since 1970.")
    key: str
    run: str | None
    question: str
    method: str
    result: Credited


class Sample(_Response):
    """What the service was doing at a time; totals are since its start."""

    at: float = Field(description="Seconds since 1970.")
    accepted: float
    running: float
    queued_tokens: float
    rollouts: float
    completion_tokens: float
    steps_wrong: float
    steps_right: float
    agreement_sum: float
    agreement_count: float
    critiques_invalid: float
    critiques: float
    canary_good: float | None = Field(
        default=None, description="Share of recent probes that were judged correctly."
    )
    canary_bad: float | None = None


class Live(_Response):
    """The answer of `GET /live`."""

    model: str
    seconds: float = Field(description="Between samples.")
    samples: list[Sample]
    recent: list[Recent] = Field(description="The newest last; empty unless live_rollouts is set.")
    keeps: int = Field(description="How many recent rollouts the service keeps (live_rollouts).")


class Info(_Response):
    """The answer of `GET /info`."""

    service: str = "capo-credit"
    version: str
    wire: int = Field(default=1, description="Version of the wire; fields are added within one.")
    model: str
    engine: str
    context_length: int | None
    critique_style: str
    critique_format: str
    template: str | None = Field(
        default=None,
        description="Digest of the judge's prompt template: the first 16 digits of its SHA-256.",
    )
    judge_digest: str | None = Field(
        default=None,
        description="Digest of all settings that can change what the judge says; results of "
        "services with the same digest can be mixed.",
    )
    tokenizers: list[str] = Field(description="Names that `tokenizer` may take.")
    voting_methods: list[str]
    reward_schemes: list[str]
    segment_methods: list[str]
    limits: dict[str, Any]
