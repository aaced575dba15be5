"""Base classes of the wire's models, and the types of their fields.

Positions (`steps`, `token_offsets`, `span`) count Unicode code points of `response`, as Python's
`str` does, from 0, and ends are exclusive. Requests refuse unknown fields by name; responses
ignore them, so that an older client can read the responses of a newer service.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

PositionField = Annotated[StrictInt, Field(ge=0)]
SpanField = tuple[PositionField, PositionField]
TokenIdField = Annotated[StrictInt, Field(ge=0)]

VotingMethod = Literal["greedy", "intersection", "majority", "union", "average"]
RewardScheme = Literal["capo", "process_only", "first_error", "flawed_positive", "criteria"]
SegmentMethod = Literal[
    "blank_line", "newline", "sentence", "regex", "given", "turn", "turn_blank_line"
]
Priority = Literal["training", "evaluation"]
CritiqueStyle = Literal["verdict", "brief", "full"]
CriterionKind = Literal["pitfall", "requirement", "bonus"]
Include = Literal["token_rewards", "critiques", "thinking", "response"]

# Fields of a rollout, and the header by which a service says that it knows them.
TOKEN_FORMS = ("token_offsets", "token_lengths")
FORMS_HEADER = "X-Capo-Token-Forms"

VERSION = 1  # of the wire; a change other than adding fields needs a new version


class RequestModel(BaseModel):
    """A part of a request: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseModel(BaseModel):
    """A part of a response: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)
