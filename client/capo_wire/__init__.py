"""The HTTP API's models ("the wire"), and rules that client and service must agree on.

The models of requests and responses are here. These modules hold the rules:

aggregate      a rollout's credit as one number, its agreement, metrics for a trainer's log
answers        the final answer of a text, and whether two answers are equal
assignments    `name=value` options of commands
jsonlines      files of rollouts
labels         a data set's label -> `reference`
proxies        the proxy that environment variables name for a URL
retry_policy   which failures are temporary, and how long to wait
segmentation   text -> steps
special_text   thoughts and end-of-turn tokens in what a model wrote
token_offsets  sampled ids -> `response` and `token_offsets`
validation     pydantic's errors as sentences

The package imports pydantic and the standard library. `answers.compare` needs math-verify, and
`token_offsets` the tokenizer that it is given. Modules without models do not import pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capo_wire.base import (
        FORMS_HEADER,
        TOKEN_FORMS,
        VERSION,
        CriterionKind,
        CritiqueStyle,
        Include,
        Priority,
        RequestModel,
        ResponseModel,
        RewardScheme,
        SegmentMethod,
        VotingMethod,
    )
    from capo_wire.chat import CalledFunction, ChatTurn, TextPart, ToolCall
    from capo_wire.criteria import Criterion, CriterionAnswer, CriterionCredit, CriterionVotes
    from capo_wire.inspection import (
        EngineLimits,
        Info,
        Live,
        LiveSample,
        Prompt,
        PromptMessage,
        PromptSampling,
        RecentRollout,
        Tokens,
        TokensRequest,
    )
    from capo_wire.requests import (
        DEFAULT_CRITIQUES,
        DEFAULT_READS,
        MOST_CRITIQUES,
        CreditOptions,
        CreditRequest,
        Reward,
        Segment,
        Voting,
    )
    from capo_wire.responses import (
        Credited,
        CreditResponse,
        CreditSummary,
        Critique,
        ExactReading,
        Failed,
        Observation,
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
    from capo_wire.rollouts import Rollout

__all__ = [
    "DEFAULT_CRITIQUES",
    "DEFAULT_READS",
    "FORMS_HEADER",
    "MOST_CRITIQUES",
    "TOKEN_FORMS",
    "VERSION",
    "CalledFunction",
    "ChatTurn",
    "CreditOptions",
    "CreditRequest",
    "CreditResponse",
    "CreditSummary",
    "Credited",
    "Criterion",
    "CriterionAnswer",
    "CriterionCredit",
    "CriterionKind",
    "CriterionVotes",
    "Critique",
    "CritiqueStyle",
    "EngineLimits",
    "ExactReading",
    "Failed",
    "Include",
    "Info",
    "Live",
    "LiveSample",
    "Observation",
    "Outcome",
    "Priority",
    "Problem",
    "Prompt",
    "PromptMessage",
    "PromptSampling",
    "RecentRollout",
    "RequestModel",
    "ResponseModel",
    "Result",
    "Reward",
    "RewardScheme",
    "Rollout",
    "Segment",
    "SegmentMethod",
    "Step",
    "Suspicion",
    "TextPart",
    "Timing",
    "Tokens",
    "TokensRequest",
    "ToolCall",
    "Unchecked",
    "Usage",
    "Votes",
    "Voting",
    "VotingMethod",
]

_MODELS = ("base", "chat", "criteria", "rollouts", "requests", "responses", "inspection")


def __getattr__(name: str) -> Any:
    # Models are imported at their first use, as pydantic does with its own, because the service's
    # core imports modules of this package and must not import pydantic.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in _MODELS:
        models = vars(import_module(f"{__name__}.{module}"))
        globals().update({each: models[each] for each in __all__ if each in models})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
