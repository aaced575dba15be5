"""A rollout, as requests have it."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from capo_wire.base import RequestModel, SpanField, TokenIdField
from capo_wire.chat import ChatTurn, conversation_text, tools_text, trajectory_text
from capo_wire.criteria import Criterion, check_ids
from capo_wire.segmentation import Span

MaskField = Annotated[StrictInt, Field(ge=0, le=1)] | StrictBool


class Rollout(RequestModel):
    """One sampled response to one question, or a trajectory with text of tools between."""

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
    tools: list[dict[str, Any]] | None = Field(
        default=None,
        description="The tools that the policy may call, as its chat template has them. The judge "
        "sees them before the question.",
    )
    response: str | None = Field(
        default=None,
        description="The rollout's text. Optional with `response_token_ids` and `tokenizer`: the "
        "service then decodes the ids.",
    )
    response_turns: Annotated[list[ChatTurn], Field(min_length=1)] | None = Field(
        default=None,
        description="A trajectory as chat turns, in place of `response`, where no tokens are sent. "
        "The turns of role `assistant` are the policy's. The result has the `response` that was "
        "made of them, in which spans are positions.",
    )
    observations: list[SpanField] | None = Field(
        default=None,
        description="The character spans of `response` that the policy did not write (a tool's or "
        "an environment's), in ascending order, where no tokens are sent.",
    )
    response_token_ids: list[TokenIdField] | None = Field(
        default=None,
        description="The token ids of `response`; `token_rewards` has one number for each.",
    )
    response_mask: list[MaskField] | None = Field(
        default=None,
        description="For each token that is sent: 1 if the policy sampled it, 0 if a tool or an "
        "environment wrote it. Tokens with 0 are in no step, and their reward is 0.0.",
    )
    tokenizer: str | None = Field(
        default=None,
        description="The tokenizer of `response_token_ids`, by a name that `GET /info` lists. Give "
        "exactly one of `tokenizer` and `token_offsets` (or `token_lengths`) with ids.",
    )
    token_offsets: list[SpanField] | None = Field(
        default=None,
        description="The character span of each token in `response`, from the caller's own "
        "tokenizer; empty for a token without text.",
    )
    token_lengths: list[StrictInt] | None = Field(
        default=None,
        description="In place of `token_offsets`, a shorter form: the number of characters of each "
        "token, where the tokens cover `response` from its first character to its last; 0 for a "
        "token without text. Of tokens that share characters, the first has them.",
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

    @field_validator(
        "response_token_ids",
        "token_offsets",
        "token_lengths",
        "response_mask",
        "observations",
        "steps",
        mode="wrap",
    )
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
            if self.response is None and self.response_turns is None:
                raise ValueError(
                    "give response, or response_token_ids and tokenizer, or response_turns"
                )
        elif (self.tokenizer is None) == (
            self.token_offsets is None and self.token_lengths is None
        ):
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
        self._check_lengths()
        self._check_trajectory()
        check_ids(self.criteria or ())
        return self

    def _check_lengths(self) -> None:
        lengths, ids = self.token_lengths, self.response_token_ids
        if lengths is None:
            return
        if self.response is None:
            raise ValueError("token_lengths needs response: the tokens cover its characters")
        if self.token_offsets is not None:
            raise ValueError("give token_offsets or token_lengths, not both")
        if ids is not None and len(ids) != len(lengths):
            raise ValueError(
                f"response_token_ids has {len(ids)} ids but token_lengths has {len(lengths)}"
            )

    def _check_trajectory(self) -> None:
        mask, has_tokens = self.response_mask, bool(self.token_count)
        if self.response_turns is not None:
            if self.response is not None or has_tokens or self.response_token_ids is not None:
                raise ValueError(
                    "response_turns stands in place of response and has no tokens: leave out "
                    "response and tokens, or send response, tokens and response_mask instead"
                )
            if mask is not None or self.observations is not None or self.steps is not None:
                raise ValueError(
                    "response_turns says itself what the policy wrote: leave out response_mask, "
                    "observations and steps"
                )
        if mask is not None:
            if not has_tokens:
                raise ValueError(
                    "response_mask has one number per token, and no tokens were sent: send "
                    "response_token_ids, token_offsets or token_lengths, or use observations"
                )
            if len(mask) != self.token_count:
                raise ValueError(
                    f"response_mask has {len(mask)} numbers, but {self.token_count} tokens were "
                    "sent: send one per token"
                )
            if not any(mask):
                raise ValueError(
                    "response_mask is 0 for every token: the policy sampled nothing that could be "
                    "rewarded; its own tokens have 1"
                )
        if self.observations is not None and has_tokens:
            raise ValueError(
                "observations are for rollouts without tokens: with tokens, send response_mask "
                "(one number per token)"
            )

    @property
    def token_count(self) -> int:
        """The number of tokens that were sent; 0 if none were."""
        return len(self.response_token_ids or self.token_offsets or self.token_lengths or ())

    def prompt_text(self) -> str:
        """The question as one text: a single user turn as it is, several turns with their roles.

        The tools that the policy may call come first.
        """
        if self.question is None:
            return conversation_text(self.messages or [], self.tools or ())
        return f"{tools_text(self.tools)}\n\n{self.question}" if self.tools else self.question

    def trajectory(self) -> tuple[str, list[Span] | None]:
        """The response, and the spans in it that the policy did not write; None if not given.

        The text is empty where only token ids were sent.
        """
        if self.response_turns is not None:
            return trajectory_text(self.response_turns)
        return self.response or "", self.observations


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists and numbers; without any, the value itself."""
    if callable(convert := getattr(value, "tolist", None)):
        return convert()
    if isinstance(value, list | tuple):
        plain = [_plain(each) for each in value]
        if any(a is not b for a, b in zip(plain, value, strict=True)):
            return plain
    return value
