"""Client of the CAPO reward service: send rollouts, get back the credit of every token.

from capo_client import CreditClient, Rollout

with CreditClient("http://localhost:8000") as client:
    batch = client.credit([Rollout(question=..., response=..., outcome=1.0)])
"""

from capo_client.arrays import padded_token_rewards
from capo_client.async_client import AsyncCreditClient
from capo_client.client import CreditClient
from capo_client.errors import (
    CapoError,
    CreditFailedError,
    DeadlineExceededError,
    InvalidRequestError,
    InvalidResponseError,
    ProblemResponseError,
    UnauthorizedError,
    UnavailableError,
)
from capo_client.results import CreditBatch
from capo_client.retry import RetryPolicy
from capo_client.session import CreditSession
from capo_client.wire import (
    ChatTurn,
    Credited,
    Failed,
    Info,
    Reward,
    Rollout,
    Segment,
    Voting,
)

__all__ = [
    "AsyncCreditClient",
    "CapoError",
    "ChatTurn",
    "CreditBatch",
    "CreditClient",
    "CreditFailedError",
    "CreditSession",
    "Credited",
    "DeadlineExceededError",
    "Failed",
    "Info",
    "InvalidRequestError",
    "InvalidResponseError",
    "ProblemResponseError",
    "RetryPolicy",
    "Reward",
    "Rollout",
    "Segment",
    "UnauthorizedError",
    "UnavailableError",
    "Voting",
    "padded_token_rewards",
]
