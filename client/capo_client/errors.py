"""Everything the client raises, in one tree.

CapoError
  ConfigurationError       a setting cannot work, such as a URL without a scheme; also a ValueError
  UnavailableError         the service cannot be reached, is full, or is not ready
  DeadlineExceededError    the call's own deadline passed
  InvalidResponseError     the answer is not of this wire; is the URL a capo service?
  ProblemResponseError     the service refused the request (RFC 9457 problem)
    UnauthorizedError        401: the API key is missing or wrong
    InvalidRequestError      another 4xx: because of what was sent
      PermissionDeniedError    403: the API key may not do this
      NotFoundError            404: the service has no such path
      MethodNotAllowedError    405: the path does not take this method
      RequestTooLargeError     413: the request is larger than the service takes
      UnsupportedMediaTypeError  415: the body is of a type that the service does not read
  CreditFailedError        some rollouts were not credited (raised on request)

All of them can be pickled and copied, with every attribute: they are raised in Ray actors and in
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
        # That of Exception calls the class with its message, which is not what __init__ takes.
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[CapoError], args: tuple[Any, ...]) -> CapoError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ConfigurationError(CapoError, ValueError):
    """A setting of the client cannot work: the message names it and says what to change."""


class UnavailableError(CapoError):
    """The service could not serve. `problem`: what it said last, where it said something."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class DeadlineExceededError(CapoError):
    """The deadline of the call passed before every rollout was credited."""


class InvalidResponseError(CapoError):
    """The answer cannot be read as this wire's."""


class ProblemResponseError(CapoError):
    """The service refused the request.

    Attributes:
        problem: why; its `field` names the part of the request at fault, where one is.
        status: of HTTP.
        response: the HTTP response, where there was one.
    """

    _advice: ClassVar[str] = ""

    def __init__(self, problem: Problem, response: httpx.Response | None = None) -> None:
        where = _asked(response)
        said = f"{problem.status} {problem.title}: {problem.detail}"
        if where and where not in said:
            said += f" ({where})"
        if self._advice:
            said += f"{'' if said.endswith(('.', '?')) else '.'} {self._advice}"
        super().__init__(said)
        self.problem = problem
        self.response = response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status


def _asked(response: httpx.Response | None) -> str:
    try:
        return str(response.url) if response is not None else ""
    except RuntimeError:  # made by hand, without a request
        return ""


class InvalidRequestError(ProblemResponseError):
    """What was sent is not valid; `problem.field` names the part at fault."""


class UnauthorizedError(ProblemResponseError):
    """The API key is missing or wrong."""

    _advice = "Set api_key or CAPO_API_KEY to a key of this service"


class PermissionDeniedError(InvalidRequestError):
    """The API key may not do this."""

    _advice = "Use an API key that may (api_key or CAPO_API_KEY)"


class NotFoundError(InvalidRequestError):
    """The service has no such path."""

    _advice = "Give the service's own URL, such as http://judge:8000, without the path of a route"


class MethodNotAllowedError(InvalidRequestError):
    """The path does not take this method: something else answers at the URL."""

    _advice = NotFoundError._advice


class RequestTooLargeError(InvalidRequestError):
    """The request is larger than the service, or a proxy before it, takes."""

    _advice = "Send fewer rollouts in one request (batch_size)"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is of a type that the service does not read."""


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
    """The exception for a request that was refused for good, by its status."""
    status = response.status_code
    other = InvalidRequestError if 400 <= status < 500 else ProblemResponseError
    return _BY_STATUS.get(status, other)(problem, response)
