"""One part of a batch on its way: what is still to be credited, and what to do next.

Sync and async clients drive the same state: they send `body()`, hand over what comes back, and
wait as long as they are told. Nothing here does I/O.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
from pydantic import TypeAdapter, ValidationError

from capo_client import errors, wire
from capo_client.retry import RETRYABLE, RetryPolicy, retry_after

Position = int
Answer = wire.Credited | wire.Failed
RolloutLike = wire.Rollout | Mapping[str, Any]

_RESULT: TypeAdapter[Answer] = TypeAdapter(wire.Result)
_PROXY_STATUSES = frozenset({500, 502, 504})
_NOT_FINAL = RETRYABLE | {504}  # at 504 our own deadline has passed too, or is about to
_CONNECT_SECONDS = 5.0
_GRACE_SECONDS = 5.0  # the service answers 504 at the deadline; wait a little for that answer


def make_options(**given: Any) -> dict[str, Any]:
    """Check the options of a call and return those that were given, as JSON.

    Raises:
        InvalidRequestError: an option is unknown or has a wrong value.
    """
    present = {name: value for name, value in given.items() if value is not None}
    try:
        checked = wire.CreditOptions.model_validate(present)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise errors.InvalidRequestError(
            wire.Problem(
                type="urn:capo:problem:invalid-request",
                title="The request is not valid",
                status=422,
                detail=f"{field}: {message}",
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
        groups.setdefault(_question(rollout), []).append((position, rollout))
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
        self._pending = {position: _as_json(rollout) for position, rollout in rollouts}
        self.question = question
        self.tokens = sum(1 + _tokens(rollout) for rollout in self._pending.values())
        self._options = options
        self._policy = policy
        self._deadline = deadline
        self._attempt = 0  # in a row without a result
        self._failures = 0  # of those, and not because the service was full
        self._progress = False
        self._wait_for = 0.0
        self._last: wire.Problem | None = None

    @property
    def done(self) -> bool:
        """Whether every rollout has its result."""
        return not self._pending

    @property
    def retry_after(self) -> float:
        """Seconds that the service asked for before the next attempt."""
        return self._wait_for

    def _seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    def timeout(self) -> httpx.Timeout:
        """How long the HTTP client may wait."""
        left = max(self._seconds_left(), 0.0) + _GRACE_SECONDS
        return httpx.Timeout(left, connect=min(_CONNECT_SECONDS, left))

    def body(self) -> bytes:
        """The request for all rollouts that have no result yet.

        Raises:
            DeadlineExceededError: no time is left.
        """
        left = self._seconds_left()
        if left <= 0:
            raise errors.DeadlineExceededError(self._too_late())
        self._attempt += 1
        self._failures += 1
        self._progress = False
        self._wait_for = 0.0
        # Our own ids: the caller's need not be unique. A rollout that is no object stays as it is.
        rollouts = [{**rollout, "id": str(p)} for p, rollout in self._pending.items()]
        envelope = {**self._options, "rollouts": rollouts, "deadline_ms": max(1, int(left * 1000))}
        return json.dumps(envelope).encode()

    def take(self, line: str) -> tuple[Position, Answer] | None:
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
            raise errors.InvalidResponseError(f"not a result: {line[:200]!r}") from error
        if isinstance(result, wire.Failed) and result.error.status in _NOT_FINAL:
            self._last = result.error
            return None
        self._progress = True
        del self._pending[position]
        name = rollout.get("id")
        return position, result.model_copy(
            update={"id": name if isinstance(name, str) else str(position)}
        )

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

    def lost(self, error: httpx.TransportError) -> None:
        """The connection failed, before or during the answer."""
        self._last = wire.Problem(
            type="urn:capo:problem:unreachable",
            title="The service cannot be reached",
            status=503,
            detail=f"{type(error).__name__}: {error}",
        )

    def move_on(self) -> None:
        """Another replica is tried at once; that is still the same attempt."""
        self._attempt -= 1
        self._failures -= 1

    def pause(self) -> float:
        """Seconds until the next attempt at what is still pending.

        Raises:
            UnavailableError: it was tried often enough.
            DeadlineExceededError: no time would be left then.
        """
        if self._progress:
            self._attempt = self._failures = 1  # the service is there: patience starts anew
        if self._failures >= self._policy.attempts:
            said = self._last.detail if self._last else "the answer ended before its last result"
            raise errors.UnavailableError(
                f"gave up after {self._failures} attempts: {said}", self._last
            )
        wait = self._policy.wait(self._attempt, self._wait_for)
        if wait >= self._seconds_left():
            raise errors.DeadlineExceededError(self._too_late())
        return wait

    def give_up(self, error: errors.CapoError) -> list[tuple[Position, wire.Failed]]:
        """Failed results for everything still pending, because of `error`."""
        lost = [(p, failed(rollout, p, error)) for p, rollout in self._pending.items()]
        self._pending = {}
        return lost

    def _too_late(self) -> str:
        said = f"; the service said: {self._last.detail}" if self._last else ""
        return f"the deadline passed with {len(self._pending)} rollouts not credited{said}"


def failed(rollout: RolloutLike, position: Position, error: errors.CapoError) -> wire.Failed:
    """The result of a rollout that was not credited because of `error`."""
    name = rollout.id if isinstance(rollout, wire.Rollout) else rollout.get("id")
    problem = getattr(error, "problem", None) or wire.Problem(
        type="urn:capo:problem:deadline",
        title="The deadline has passed",
        status=504,
        detail=str(error),
    )
    return wire.Failed(id=name if isinstance(name, str) else str(position), error=problem)


def _is_from_between(response: httpx.Response) -> bool:
    """Whether a proxy answers for a service that it cannot reach, as when a replica dies."""
    media_type = response.headers.get("content-type", "").partition(";")[0]
    return response.status_code in _PROXY_STATUSES and media_type != "application/problem+json"


def refusal(response: httpx.Response) -> errors.CapoError:
    """The exception for an answer that is not 2xx; `response` is read."""
    problem = _problem(response)
    if response.status_code == 401:
        return errors.UnauthorizedError(problem, response)
    if response.status_code < 500:
        return errors.InvalidRequestError(problem, response)
    if response.status_code == 503:
        return errors.UnavailableError(problem.detail, problem)
    return errors.ProblemResponseError(problem, response)


def _question(rollout: RolloutLike) -> str:
    given = vars(rollout) if isinstance(rollout, wire.Rollout) else rollout
    return str(given.get("question") or given.get("messages"))


def _tokens(rollout: Mapping[str, Any]) -> int:
    """About how long a rollout is; it need not be a valid one."""
    ids, text = rollout.get("response_token_ids"), rollout.get("response")
    if isinstance(ids, list):
        return len(ids)
    return len(text) // 4 if isinstance(text, str) else 0


def _as_json(rollout: RolloutLike) -> dict[str, Any]:
    if isinstance(rollout, wire.Rollout):
        return rollout.model_dump(mode="json", exclude_none=True)
    return dict(rollout)


def _problem(response: httpx.Response) -> wire.Problem:
    try:
        return wire.Problem.model_validate_json(response.content)
    except ValidationError:
        return wire.Problem(
            type="about:blank",
            title=response.reason_phrase or "Error",
            status=response.status_code,
            detail=f"{response.url} answered {response.text[:200]!r}; is it a capo service?",
        )
