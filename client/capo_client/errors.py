"""The client's exceptions, in one tree.

CapoError
  ConfigurationError       a setting is unusable, such as a URL without a scheme; also a ValueError
  UnavailableError         the service cannot be reached, is full, or is not ready
  DeadlineExceededError    the deadline of the call passed
  InvalidResponseError     the response is not a capo service's; is the URL right?
  ProblemResponseError     the service refused the request (RFC 9457 problem)
    UnauthorizedError        401: the API key is missing or wrong
    InvalidRequestError      another 4xx: the request itself is at fault
      UnknownOptionError       a keyword argument that is not an option; also a TypeError
      PermissionDeniedError    403: the API key lacks the permission
      NotFoundError            404: the service has no such path
      MethodNotAllowedError    405: the path does not take this method
      RequestTooLargeError     413: the request exceeds the service's limit
      UnsupportedMediaTypeError  415: the service does not read this type of body
  CreditFailedError        some rollouts were not credited (raised on request)

All can be pickled and copied with every attribute, because they are raised in Ray actors and in
worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import httpx

from capo_wire import Failed, Problem


class CapoError(Exception):
    """Base of all errors of this client."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception.__reduce__ would call the class with its message, which __init__ does not take.
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[CapoError], args: tuple[Any, ...]) -> CapoError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ConfigurationError(CapoError, ValueError):
    """A setting of the client is unusable; the message names it and says what to change."""


class UnavailableError(CapoError):
    """The service could not serve the request. `problem`: its last response, if there was one."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class DeadlineExceededError(CapoError):
    """The deadline of the call passed before every rollout was credited."""


class InvalidResponseError(CapoError):
    """The response is not one of the HTTP API; is the URL a capo service?"""


class ProblemResponseError(CapoError):
    """The service refused the request.

    Attributes:
        problem: the reason; its `field` names the part of the request at fault, if any.
        status: the HTTP status.
        response: the HTTP response, if there was one.
    """

    _advice: ClassVar[str] = ""

    def __init__(self, problem: Problem, response: httpx.Response | None = None) -> None:
        url = _url_of(response)
        message = f"{problem.status} {problem.title}: {problem.detail}"
        if url and url not in message:
            message += f" ({url})"
        if self._advice:
            message += f"{'' if message.endswith(('.', '?')) else '.'} {self._advice}"
        super().__init__(message)
        self.problem = problem
        self.response = response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status


def _url_of(response: httpx.Response | None) -> str:
    try:
        return str(response.url) if response is not None else ""
    except RuntimeError:  # a response that was constructed without a request
        return ""


class InvalidRequestError(ProblemResponseError):
    """The request is not valid; `problem.field` names the part at fault."""


class UnknownOptionError(InvalidRequestError, TypeError):
    """A keyword argument that is not an option of a call. Nothing was sent."""


class UnauthorizedError(ProblemResponseError):
    """The API key is missing or wrong."""

    _advice = "Set api_key or CAPO_API_KEY to a key of this service"


class PermissionDeniedError(InvalidRequestError):
    """The API key lacks the permission."""

    _advice = "Use an API key that has it (api_key or CAPO_API_KEY)"


class NotFoundError(InvalidRequestError):
    """The service has no such path."""

    _advice = "Give the service's base URL, such as http://judge:8000, without a path"


class MethodNotAllowedError(InvalidRequestError):
    """The path does not take this method: the URL is not that of a capo service."""

    _advice = NotFoundError._advice


class RequestTooLargeError(InvalidRequestError):
    """The request exceeds the limit of the service, or of a proxy in front of it."""

    _advice = "Send fewer rollouts in one request (batch_size)"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The service does not read this type of body."""


class CreditFailedError(CapoError):
    """Rollouts that were not credited, in `failed`."""

    def __init__(self, failed: Sequence[Failed]) -> None:
        first = failed[0]
        super().__init__(
            f"{len(failed)} rollouts were not credited; the first, {first.id!r}: "
            f"{first.error.status} {first.error.detail}"
        )
        self.failed = list(failed)


_BY_STATUS: dict[int, type[ProblemResponseError]] = {
    401: UnauthorizedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    405: MethodNotAllowedError,
    413: RequestTooLargeError,
    415: UnsupportedMediaTypeError,
}


def of_problem(problem: Problem, response: httpx.Response) -> ProblemResponseError:
    """The exception for a response that a retry cannot change, by its status."""
    status = response.status_code
    default = InvalidRequestError if 400 <= status < 500 else ProblemResponseError
    return _BY_STATUS.get(status, default)(problem, response)
