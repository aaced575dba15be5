"""One part of a batch on its way: what is still to be credited, and what to do next.

The client drives it: it sends `body()`, hands over what comes back, and waits as long as it is
told. Nothing here does I/O.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import httpx
from pydantic import TypeAdapter, ValidationError

import capo_wire as wire
from capo_client import errors
from capo_client.encoding import (
    RolloutLike,
    UnsendableError,
    encode,
    name_of,
    question_of,
    tokens_of,
)
from capo_client.retry import RETRYABLE, RetryPolicy, retry_after
from capo_wire.validation import first_error

Position = int
Answer = wire.Credited | wire.Failed

_RESULT: TypeAdapter[Answer] = TypeAdapter(wire.Result)
_PROXY_STATUSES = frozenset({500, 502, 504})
_NOT_FINAL = frozenset({429, 503, 504})  # at 504 our deadline has passed too, or is about to
_GRACE_SECONDS = 5.0  # the service answers 504 at the deadline; wait a little for that answer
_LONGEST_DEADLINE = 24 * 3600.0  # that the wire knows


def make_options(**given: Any) -> dict[str, Any]:
    """Check the options of a call and return those that were given, as JSON.

    Raises:
        InvalidRequestError: an option is unknown or has a wrong value.
    """
    present = {name: value for name, value in given.items() if value is not None}
    try:
        checked = wire.CreditOptions.model_validate(present)
    except ValidationError as error:
        field, detail = first_error(error)
        raise errors.InvalidRequestError(
            wire.Problem(
                type="urn:capo:problem:invalid-request",
                title="The request is not valid",
                status=422,
                detail=detail,
                field=field,
            )
        ) from None
    return checked.model_dump(mode="json", include=set(present), exclude_unset=True)


def split(
    rollouts: Sequence[RolloutLike],
    options: dict[str, Any],
    size: int,
    policy: RetryPolicy,
    deadline: float,
) -> list[Chunk]:
    """A batch as chunks of up to `size` rollouts. `deadline` is by `time.monotonic`.

    Rollouts of one question go side by side, and into one chunk as far as they fit.
    """
    groups: dict[str, list[tuple[Position, RolloutLike]]] = {}
    for position, rollout in enumerate(rollouts):
        groups.setdefault(question_of(rollout), []).append((position, rollout))
    parts: list[tuple[str, list[tuple[Position, RolloutLike]]]] = []
    for question, group in groups.items():
        for start in range(0, len(group), size):
            piece = group[start : start + size]
            if parts and len(parts[-1][1]) + len(piece) <= size:
                parts[-1][1].extend(piece)
            else:
                parts.append((question, piece))
    return [Chunk(question, part, options, policy, deadline) for question, part in parts]


class Chunk:
    """Rollouts that are sent together, until each has its result.

    `question`: of the first of them. `tokens`: of all of them, about.
    """

    def __init__(
        self,
        question: str,
        rollouts: Iterable[tuple[Position, RolloutLike]],
        options: dict[str, Any],
        policy: RetryPolicy,
        deadline: float,
    ) -> None:
        self._pending = dict(rollouts)
        self._encoded: dict[Position, str] = {}
        self.question = question
        self.tokens = sum(1 + tokens_of(rollout) for rollout in self._pending.values())
        self._options = options
        self._policy = policy
        self._deadline = deadline
        self._attempt = 0  # in a row without a result
        self._failures = 0  # of those, and not because the service was full
        self._began: float | None = None  # the first of those
        self._progress = False
        self._wait_for = 0.0
        self._last: wire.Problem | None = None
        self._url = ""

    @property
    def done(self) -> bool:
        """Whether every rollout has its result."""
        return not self._pending

    @property
    def retry_after(self) -> float:
        """Seconds that the service asked for before the next attempt."""
        return self._wait_for

    @property
    def is_refused_as_full(self) -> bool:
        """Whether the service is well and only has no room."""
        return self._last is not None and self._last.status == 429

    @property
    def attempt(self) -> int:
        """How often it was sent without a result."""
        return self._attempt

    @property
    def last(self) -> str:
        """Why the last attempt came to nothing, and where."""
        said = self._last.detail if self._last else "the answer ended before its last result"
        return said if self._url in said else f"{self._url}: {said}"

    def seconds_left(self, grace: float = 0.0) -> float | None:
        """Until the deadline, or a little longer; None without one."""
        left = max(self._deadline - time.monotonic(), 0.0) + grace
        return None if math.isinf(left) else left

    def seconds_to_answer(self) -> float | None:
        """How long an answer may take; None without a deadline."""
        return self.seconds_left(_GRACE_SECONDS)

    def encode(self) -> list[tuple[Position, Answer]]:
        """Make JSON of the rollouts; results of those that are none, which are not sent."""
        refused: list[tuple[Position, Answer]] = []
        for position, rollout in list(self._pending.items()):
            try:
                # Our own ids: the caller's need not be unique.
                self._encoded[position] = encode(rollout, str(position))
            except UnsendableError as error:
                refused.append((position, failed(rollout, position, error)))
                del self._pending[position]
        return refused

    def body(self, url: str) -> bytes:
        """The request for all rollouts that have no result yet, to the service at `url`.

        Raises:
            DeadlineExceededError: no time is left.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise errors.DeadlineExceededError(self._too_late())
        self._url = url
        self._attempt += 1
        self._failures += 1
        self._began = self._began or time.monotonic()
        self._progress = False
        self._wait_for = 0.0
        deadline_ms = max(1, int(min(left, _LONGEST_DEADLINE) * 1000))
        envelope = json.dumps({**self._options, "deadline_ms": deadline_ms})
        rollouts = ", ".join(self._encoded[position] for position in self._pending)
        return f'{envelope[:-1]}, "rollouts": [{rollouts}]}}'.encode()

    def take(self, line: bytes) -> tuple[Position, Answer] | None:
        """A line of the answer: a result that is final, with its position, or None.

        Raises:
            InvalidResponseError: it is no line of this wire.
        """
        if not line.strip():
            return None
        try:
            data = json.loads(line)
            if "status" not in data:
                return None  # the summary
            result = _RESULT.validate_python(data)
            position = int(result.id)
            rollout = self._pending[position]
        except (ValueError, KeyError, TypeError) as error:
            said = line[:200].decode(errors="replace")
            raise errors.InvalidResponseError(
                f"{self._url} answered what is not a result: {said!r}; is it a capo service?"
            ) from error
        if isinstance(result, wire.Failed) and result.error.status in _NOT_FINAL:
            self._last = result.error
            return None
        self._progress = True
        del self._pending[position], self._encoded[position]
        return position, result.model_copy(update={"id": name_of(rollout, str(position))})

    def refused(self, response: httpx.Response) -> None:
        """The service refused the request as a whole; `response` is read.

        Raises:
            ProblemResponseError: for good. (If not, `pause` tells when to try again.)
        """
        if response.status_code in RETRYABLE or _is_from_between(response):
            if response.status_code == 429:
                self._failures -= 1  # it is well, and says when to come back
            self._last = _problem(response)
            self._wait_for = retry_after(response.headers.get("retry-after"))
        elif response.status_code == 504:
            raise errors.DeadlineExceededError(self._too_late())
        else:
            raise refusal(response)

    def lost(self, detail: str) -> None:
        """The connection failed, before or during the answer."""
        self._last = unreachable(detail)

    def move_on(self) -> None:
        """Another replica is tried at once; that is still the same attempt."""
        self._attempt -= 1
        self._failures -= 1

    def pause(self, retry_seconds: float = math.inf) -> float:
        """Seconds until the next attempt at what is still pending.

        Args:
            retry_seconds: for how long such a failure is tried again.

        Raises:
            UnavailableError: it was tried often enough, or no retry can fix it.
            DeadlineExceededError: no time would be left then.
        """
        now = time.monotonic()
        if self._progress:  # the service is there: its failures are counted from here
            self._attempt = self._failures = 1
            self._began = now
        tried = now - (self._began or now)
        if tried >= retry_seconds:
            raise errors.UnavailableError(self.last, self._last)
        if self._policy.attempts is not None and self._failures >= self._policy.attempts:
            raise errors.UnavailableError(
                f"gave up after {self._failures} attempts in {tried:.0f} s: {self.last}", self._last
            )
        # Not past the end of its time: then it is tried once more.
        wait = min(self._policy.wait(self._attempt, self._wait_for), retry_seconds - tried)
        left = self._deadline - now
        if wait >= left:
            if min(self._wait_for, self._policy.longest) >= left or left < self._policy.base:
                raise errors.DeadlineExceededError(self._too_late())
            wait = left / 2  # rather one more attempt than none
        return wait

    def give_up(self, error: errors.CapoError) -> list[tuple[Position, Answer]]:
        """Failed results for everything still pending, because of `error`."""
        lost: list[tuple[Position, Answer]] = [
            (p, failed(rollout, p, error)) for p, rollout in self._pending.items()
        ]
        self._pending = {}
        return lost

    def _too_late(self) -> str:
        said = f"; the last attempt: {self.last}" if self._last else ""
        return f"the deadline passed with {len(self._pending)} rollouts not credited{said}"


def unreachable(detail: str) -> wire.Problem:
    """The problem of a service from which no answer came."""
    return wire.Problem(
        type="urn:capo:problem:unreachable",
        title="The service cannot be reached",
        status=503,
        detail=detail,
    )


def failed(rollout: RolloutLike, position: Position, error: Exception) -> wire.Failed:
    """The result of a rollout that was not credited because of `error`."""
    problem = getattr(error, "problem", None) or wire.Problem(
        type="urn:capo:problem:deadline",
        title="The deadline has passed",
        status=504,
        detail=str(error),
    )
    return wire.Failed(id=name_of(rollout, str(position)), error=problem)


def _is_from_between(response: httpx.Response) -> bool:
    """Whether a proxy answers for a service that it cannot reach, as when a replica dies."""
    media_type = response.headers.get("content-type", "").partition(";")[0]
    return response.status_code in _PROXY_STATUSES and media_type != "application/problem+json"


def refusal(response: httpx.Response) -> errors.CapoError:
    """The exception for an answer that is not 2xx; `response` is read."""
    problem = _problem(response)
    if response.status_code == 503:
        return errors.UnavailableError(f"{response.url}: {problem.detail}", problem)
    return errors.of_problem(problem, response)


def _problem(response: httpx.Response) -> wire.Problem:
    try:
        return wire.Problem.model_validate_json(response.content)
    except ValidationError:
        proxy = response.request.extensions.get("capo_proxy")
        way = f" It was asked{proxy.way_to(response.url.host)}" if proxy else ""
        said = f"answered {response.text[:200]!r}; is it a capo service?{way}"
        if response.has_redirect_location:
            said = f"redirects to {response.headers['location']}: give the URL of that service"
        return wire.Problem(
            type="about:blank",
            title=response.reason_phrase or "Error",
            status=response.status_code,
            detail=f"{response.url} {said}",
        )
