"""The wire of the reward service: the one definition, used by the service and by every client.

It imports pydantic and the standard library, and nothing else of this project. The models are here;
what both sides must agree on beside them has modules of its own:

answers        where the final answer of a text stands, and whether two are the same
labels         a data set's label -> `reference`
token_offsets  sampled ids -> `response` and `token_offsets`
aggregate      a rollout's credit as one number, its agreement, metrics for a trainer's log
jsonlines      files of rollouts
retry_policy   which failures are temporary, and how long to wait
"""

from capo_wire.base import (
    VERSION,
    CritiqueStyle,
    Include,
    Position,
    Priority,
    RequestModel,
    ResponseModel,
    RewardScheme,
    SegmentMethod,
    Span,
    TokenId,
    VotingMethod,
)
from capo_wire.inspection import Info, Live, Recent, Sample, Tokens, TokensRequest
from capo_wire.requests import (
    DEFAULT_CRITIQUES,
    MOST_CRITIQUES,
    ChatTurn,
    CreditOptions,
    CreditRequest,
    Reward,
    Rollout,
    Segment,
    TextPart,
    Voting,
)
from capo_wire.responses import (
    Credited,
    CreditResponse,
    CreditSummary,
    Critique,
    Failed,
    Outcome,
    Problem,
    Result,
    Step,
    Suspicion,
    Timing,
    Unchecked,
    Usage,
    Votes,
)

__all__ = [
    "DEFAULT_CRITIQUES",
    "MOST_CRITIQUES",
    "VERSION",
    "ChatTurn",
    "CreditOptions",
    "CreditRequest",
    "CreditResponse",
    "CreditSummary",
    "Credited",
    "Critique",
    "CritiqueStyle",
    "Failed",
    "Include",
    "Info",
    "Live",
    "Outcome",
    "Position",
    "Priority",
    "Problem",
    "Recent",
    "RequestModel",
    "ResponseModel",
    "Result",
    "Reward",
    "RewardScheme",
    "Rollout",
    "Sample",
    "Segment",
    "SegmentMethod",
    "Span",
    "Step",
    "Suspicion",
    "TextPart",
    "Timing",
    "TokenId",
    "Tokens",
    "TokensRequest",
    "Unchecked",
    "Usage",
    "Votes",
    "Voting",
    "VotingMethod",
]
