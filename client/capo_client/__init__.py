"""Client of the CAPO reward service: send rollouts, get a reward for every token.

from capo_client import CreditClient, Rollout

with CreditClient("http://localhost:8000") as client:
    batch = client.credit([Rollout(question=..., response=..., outcome=1.0)])
"""

from capo_client.async_client import AsyncCreditClient
from capo_client.client import CreditClient
from capo_client.errors import (
    CapoError,
    ConfigurationError,
    CreditFailedError,
    DeadlineExceededError,
    InvalidRequestError,
    InvalidResponseError,
    MethodNotAllowedError,
    NotFoundError,
    PermissionDeniedError,
    ProblemResponseError,
    RequestTooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnknownOptionError,
    UnsupportedMediaTypeError,
)
from capo_client.padding import padded_token_rewards
from capo_client.results import CreditBatch
from capo_client.retry import RetryPolicy
from capo_client.session import CreditSession
from capo_wire import ChatTurn, Credited, Criterion, Failed, Info, Reward, Rollout, Segment, Voting
from capo_wire.token_offsets import decode_with_offsets

__all__ = [
    "AsyncCreditClient",
    "CapoError",
    "ChatTurn",
    "ConfigurationError",
    "CreditBatch",
    "CreditClient",
    "CreditFailedError",
    "CreditSession",
    "Credited",
    "Criterion",
    "DeadlineExceededError",
    "Failed",
    "Info",
    "InvalidRequestError",
    "InvalidResponseError",
    "MethodNotAllowedError",
    "NotFoundError",
    "PermissionDeniedError",
    "ProblemResponseError",
    "RequestTooLargeError",
    "RetryPolicy",
    "Reward",
    "Rollout",
    "Segment",
    "UnauthorizedError",
    "UnavailableError",
    "UnknownOptionError",
    "UnsupportedMediaTypeError",
    "Voting",
    "decode_with_offsets",
    "padded_token_rewards",
]
