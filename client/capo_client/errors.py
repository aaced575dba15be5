"""Everything the client raises, in one tree.

CapoError
  UnavailableError         the service cannot be reached, is full, or is not ready
  DeadlineExceededError    the call's own deadline passed
  InvalidResponseError     the answer is not of this wire; is the URL a capo service?
  ProblemResponseError     the service refused the request (RFC 9457 problem)
    InvalidRequestError    ... because of what was sent
    UnauthorizedError      ... because of the API key
  CreditFailedError        some rollouts were not credited (raised on request)
"""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from capo_client.wire import Failed, Problem


class CapoError(Exception):
    """Base of all errors of this client."""


class UnavailableError(CapoError):
    """The service could not serve, however often it was tried. `problem`: what it said last."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class DeadlineExceededError(CapoError):
    """The deadline of the call passed before every rollout was credited."""


class InvalidResponseError(CapoError):
    """The answer cannot be read as this wire's."""


class ProblemResponseError(CapoError):
    """The service refused the request. `problem` says why, `response` is the HTTP response."""

    def __init__(self, problem: Problem, response: httpx.Response | None = None) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem
        self.response = response


class InvalidRequestError(ProblemResponseError):
    """What was sent is not valid; `problem.field` names the part at fault."""


class UnauthorizedError(ProblemResponseError):
    """The API key is missing or wrong."""


class CreditFailedError(CapoError):
    """Rollouts that were not credited, in `failed`."""

    def __init__(self, failed: Sequence[Failed]) -> None:
        first = failed[0]
        super().__init__(
            f"{len(failed)} rollouts were not credited; the first, {first.id!r}: "
            f"{first.error.status} {first.error.detail}"
        )
        self.failed = list(failed)
