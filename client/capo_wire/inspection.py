"""Information about a service: `GET /info`, `GET /live`, `POST /tokens`, `POST /prompt`."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from capo_wire.base import FORMS_HEADER, RequestModel, ResponseModel, TokenIdField
from capo_wire.responses import Credited


class TokensRequest(RequestModel):
    """The body of `POST /tokens`: a text to tokenize, or token ids to align with their text."""

    tokenizer: str = Field(description="A name that `GET /info` lists.")
    response: str | None = None
    response_token_ids: list[TokenIdField] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.response is None and self.response_token_ids is None:
            raise ValueError("give response, response_token_ids, or both")
        return self


class Tokens(ResponseModel):
    """The response of `POST /tokens`."""

    response: str
    response_token_ids: list[int]
    token_offsets: list[tuple[int, int]] = Field(
        description="The character span of each token; empty for a token without text."
    )


class PromptMessage(ResponseModel):
    """One chat turn of the judge's prompt."""

    role: str
    content: str


class PromptSampling(ResponseModel):
    """How each critique is sampled."""

    temperature: float
    top_p: float
    max_tokens: int = Field(description="Maximum tokens of a critique.")


class Prompt(ResponseModel):
    """The response of `POST /prompt`: the judge's prompt for a rollout."""

    messages: list[PromptMessage] = Field(
        description="The chat turns, exactly as the judge gets them but for the code in the "
        "heads or tags of steps: another one of the same form stands in its place. Empty for the "
        "arithmetic checker."
    )
    opening: str = Field(description="The start of each critique, where the service writes it.")
    prompt_tokens: int | None = Field(
        description="Length of the prompt that the judge gets; null if only its server knows."
    )
    steps: list[tuple[int, int]] = Field(description="The character span of each step.")
    windows: int = Field(
        default=1,
        description="Number of windows in which the rollout is judged; the prompt is that of the "
        "first.",
    )
    sampling: PromptSampling | None = Field(description="Null for the arithmetic checker.")
    seeds: list[int] | None = Field(
        description="The seed of each critique; null if the request has none."
    )
    profile: str | None = Field(
        default=None, description="Name of the judge's profile; null for the arithmetic checker."
    )
    thinking_tokens: int = Field(
        default=0, description="Maximum tokens of a thought before each critique; 0: none."
    )
    thinking_opening: str | None = Field(
        default=None,
        description="What opens the thought, at the end of the prompt. Null if the judge does not "
        "think, or its server marks thoughts itself.",
    )
    thinking_closing: str | None = Field(
        default=None, description="What closes the thought; the critique follows."
    )


class RecentRollout(ResponseModel):
    """A recently credited rollout in `GET /live`."""

    at: float = Field(description="Seconds since 1970.")
    request: str | None = Field(
        default=None, description="The id of the request's answer, `cr_...`."
    )
    key: str
    run: str | None
    question: str
    method: str
    result: Credited


class LiveSample(ResponseModel):
    """Counters of the service at one time; totals are since its start."""

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
    thoughts: float = Field(default=0.0, description="Thoughts before completed critiques.")
    thought_tokens: float = 0.0
    thoughts_truncated: float = Field(
        default=0.0, description="Thoughts that reached their budget."
    )
    canary_good: float | None = Field(
        default=None, description="Share of recent known-answer probes that were judged correctly."
    )
    canary_bad: float | None = None


class Live(ResponseModel):
    """The response of `GET /live`."""

    model: str
    seconds: float = Field(description="Interval between samples.")
    samples: list[LiveSample]
    recent: list[RecentRollout] = Field(
        description="Newest last; empty unless the setting live_rollouts is set."
    )
    keeps: int = Field(
        description="Number of recent rollouts that the service keeps (setting live_rollouts)."
    )


class EngineLimits(ResponseModel):
    """What the judge's engine computes at once, where it runs inside the service."""

    slots: int = Field(description="Critiques sampled concurrently, over all ranks.")
    ranks: int = Field(description="Data-parallel ranks; the limits below are those of each.")
    max_num_seqs: int = Field(description="Critiques sampled concurrently.")
    max_num_batched_tokens: int = Field(description="Tokens computed in one step.")
    kv_cache_tokens: int | None = Field(description="Tokens that the KV cache holds.")
    block_size: int = Field(
        description="Tokens in a block of the KV cache; only whole blocks are reused."
    )


class Info(ResponseModel):
    """The response of `GET /info`."""

    service: str = "capo-credit"
    version: str
    wire: int = Field(
        default=1, description="Version of the wire; within a version, fields are only added."
    )
    model: str
    engine: str
    context_length: int | None
    critique_style: str
    critique_format: str
    profile: str | None = Field(
        default=None, description="Name of the judge's profile: its prompt and form of verdicts."
    )
    template: str | None = Field(
        default=None,
        description="Digest of the judge's prompt template: first 16 hex digits of its SHA-256.",
    )
    judge_digest: str | None = Field(
        default=None,
        description="Digest of all settings that can change the judge's critiques; results of "
        "services with the same digest can be mixed.",
    )
    tokenizers: list[str] = Field(description="Names that `tokenizer` may take.")
    token_forms: list[str] = Field(
        default=["token_offsets"],
        description="Fields by which rollouts may say what characters their tokens have; also in "
        f"the header `{FORMS_HEADER}` of the responses of `POST /credit`.",
    )
    voting_methods: list[str]
    reward_schemes: list[str]
    segment_methods: list[str]
    limits: dict[str, Any]
    engine_limits: EngineLimits | None = Field(
        default=None, description="Null until the judge is loaded, and for engines elsewhere."
    )
