"""A rollout, as requests have it."""

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

from capo_wire.base import RequestModel, SpanField, TokenIdField
from capo_wire.criteria import Criterion, check_ids


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

    @field_validator("response_token_ids", "token_offsets", "token_lengths", "steps", mode="wrap")
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

    @property
    def token_count(self) -> int:
        """The number of tokens that were sent; 0 if none were."""
        return len(self.response_token_ids or self.token_offsets or self.token_lengths or ())

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
