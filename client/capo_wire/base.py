"""What every model of the wire has in common: how strict it is, and the types of its fields.

Positions (`steps`, `token_offsets`, `span`) count Unicode code points of `response`, as Python's
`str` does, from 0, and ends are exclusive. Requests refuse unknown fields by name; responses
ignore them, so that an older client reads a newer service.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

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


class RequestModel(BaseModel):
    """A part of a request: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseModel(BaseModel):
    """A part of a response: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)
