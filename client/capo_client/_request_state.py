"""One chunk of a batch: which rollouts are not credited yet, and when to send them again.

`Sender` drives it: it sends `body()`, passes every line of the response to `take`, and sleeps for
`pause()` seconds. Nothing here does I/O.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import httpx
from pydantic import TypeAdapter

import capo_wire as wire
from capo_client import errors
from capo_client._problems import is_from_proxy, problem_of, refusal, unreachable
from capo_client.encoding import (
    EncodedRollout,
    RolloutLike,
    UnsendableError,
    encode,
    mask_of,
    name_of,
    question_of,
    tokens_of,
    without_token_rewards,
)
from capo_client.results import with_token_rewards
from capo_client.retry import RetryPolicy
from capo_wire.retry_policy import RETRYABLE, retry_after

_RESULT: TypeAdapter[wire.Credited | wire.Failed] = TypeAdapter(wire.Result)
_NOT_FINAL = frozenset({429, 503, 504})  # a 504 arrives when this client's deadline has passed too
_GRACE_SECONDS = 5.0  # seconds for the service's 504 at the deadline to arrive
_LONGEST_DEADLINE = 24 * 3600.0  # the wire's limit


def split(
    rollouts: Sequence[RolloutLike],
    options: dict[str, Any],
    size: int,
    policy: RetryPolicy,
    deadline: float,
) -> list[Chunk]:
    """A batch as chunks of up to `size` rollouts. `deadline` is in terms of `time.monotonic`.

    Rollouts of one question are adjacent, and in one chunk if they fit.
    """
    groups: dict[str, list[tuple[int, RolloutLike]]] = {}
    for position, rollout in enumerate(rollouts):
        groups.setdefault(question_of(rollout), []).append((position, rollout))
    parts: list[tuple[str, list[tuple[int, RolloutLike]]]] = []
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

    Attributes:
        question: that of the first rollout.
        tokens: of all rollouts, approximately.
        lengths_refused: whether the service does not know `token_lengths`, after all.
    """

    def __init__(
        self,
        question: str,
        rollouts: Iterable[tuple[int, RolloutLike]],
        options: dict[str, Any],
        policy: RetryPolicy,
        deadline: float,
    ) -> None:
        self._pending = dict(rollouts)
        self._encoded: dict[int, EncodedRollout] = {}
        self.question = question
        self.tokens = sum(1 + tokens_of(rollout) for rollout in self._pending.values())
        self._options, self._expands = without_token_rewards(options, self._pending.values())
        self._policy = policy
        self._deadline = deadline
        self._attempt = 0  # consecutive attempts without a result
        self._failures = 0  # those that did not fail by a 429
        self._began: float | None = None  # when the first of them began
        self._progress = False
        self._retry_after = 0.0
        self._last: wire.Problem | None = None
        self._url = ""
        self._with_lengths = self.lengths_refused = False

    @property
    def done(self) -> bool:
        """Whether every rollout has its result."""
        return not self._pending

    @property
    def retry_after(self) -> float:
        """The Retry-After of the last response, in seconds."""
        return self._retry_after

    @property
    def is_refused_as_full(self) -> bool:
        """Whether the service is healthy and its queue is full (429)."""
        return self._last is not None and self._last.status == 429

    @property
    def attempt(self) -> int:
        """The number of consecutive attempts without a result."""
        return self._attempt

    @property
    def last_failure(self) -> str:
        """Why the last attempt failed, with the URL."""
        detail = self._last.detail if self._last else "the response ended before its last result"
        return detail if self._url in detail else f"{self._url}: {detail}"

    def seconds_left(self, grace: float = 0.0) -> float | None:
        """Seconds until the deadline, plus `grace`; None without a deadline."""
        left = max(self._deadline - time.monotonic(), 0.0) + grace
        return None if math.isinf(left) else left

    def response_timeout(self) -> float | None:
        """Seconds that a response may take; None without a deadline."""
        return self.seconds_left(_GRACE_SECONDS)

    def encode(self) -> list[tuple[int, wire.Result]]:
        """Write the rollouts as JSON; returns failed results for those that cannot be written."""
        unsendable: list[tuple[int, wire.Result]] = []
        for position, rollout in list(self._pending.items()):
            try:
                # Our own ids: the caller's need not be unique.
                self._encoded[position] = encode(rollout, str(position))
            except UnsendableError as error:
                unsendable.append((position, failed(rollout, position, error)))
                del self._pending[position]
        return unsendable

    def body(self, url: str, with_lengths: bool = False) -> bytes:
        """The request body for all rollouts without a result, for the service at `url`.

        Args:
            url: the service.
            with_lengths: whether it knows `token_lengths`.

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
        self._retry_after = 0.0
        deadline_ms = max(1, int(min(left, _LONGEST_DEADLINE) * 1000))
        envelope = json.dumps({**self._options, "deadline_ms": deadline_ms})
        self._with_lengths = with_lengths
        self.lengths_refused = False
        encoded = (self._encoded[position] for position in self._pending)
        rollouts = ", ".join(each.json(with_lengths) for each in encoded)
        return f'{envelope[:-1]}, "rollouts": [{rollouts}]}}'.encode()

    def take(self, line: bytes) -> tuple[int, wire.Result] | None:
        """Read a line of the response: a final result with its position, or None.

        Raises:
            InvalidResponseError: the line is not a result.
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
            excerpt = line[:200].decode(errors="replace")
            raise errors.InvalidResponseError(
                f"{self._url} returned a line without a result: {excerpt!r}; is it a capo service?"
            ) from error
        if isinstance(result, wire.Failed):
            if result.error.status in _NOT_FINAL:
                self._last = result.error
                return None
            if self._with_lengths and self._encoded[position].is_refused(result.error):
                self.lengths_refused = True
                return None
        elif self._expands:
            result = self._with_token_rewards(result, rollout)
        self._progress = True
        del self._pending[position], self._encoded[position]
        return position, result.model_copy(update={"id": name_of(rollout, str(position))})

    def _with_token_rewards(self, result: wire.Credited, rollout: RolloutLike) -> wire.Credited:
        try:
            return with_token_rewards(result, mask_of(rollout))
        except ValueError as error:
            raise errors.InvalidResponseError(f"{self._url} returned {error}") from error

    def refused(self, response: httpx.Response) -> None:
        """Note that the whole request was refused; `response` is read.

        Raises:
            DeadlineExceededError: the service says that the deadline has passed.
            ProblemResponseError: a retry cannot help. (Otherwise `pause` returns the wait.)
        """
        if response.status_code in RETRYABLE or is_from_proxy(response):
            if response.status_code == 429:
                self._failures -= 1  # the service is healthy, and says when to retry
            self._last = problem_of(response)
            self._retry_after = retry_after(response.headers.get("retry-after"))
        elif response.status_code == 504:
            raise errors.DeadlineExceededError(self._too_late())
        else:
            raise refusal(response)

    def lost(self, detail: str) -> None:
        """Note that the connection failed, before or during the response."""
        self._last = unreachable(detail)

    def move_on(self) -> None:
        """Count the next try (another replica, no wait) as part of the same attempt."""
        self._attempt -= 1
        self._failures -= 1

    def pause(self, retry_seconds: float = math.inf) -> float:
        """Seconds to wait before the next attempt.

        Args:
            retry_seconds: for how long this kind of failure is retried.

        Raises:
            UnavailableError: attempts are used up, or a retry cannot help.
            DeadlineExceededError: no time would be left after the wait.
        """
        now = time.monotonic()
        if self._progress:  # the service works: count its failures from here
            self._attempt = self._failures = 1
            self._began = now
        elapsed = now - (self._began or now)
        if elapsed >= retry_seconds:
            raise errors.UnavailableError(self.last_failure, self._last)
        if self._policy.attempts is not None and self._failures >= self._policy.attempts:
            raise errors.UnavailableError(
                f"gave up after {self._failures} attempts in {elapsed:.0f} s: {self.last_failure}",
                self._last,
            )
        # The wait ends within the time for which such failures are retried, for one more attempt.
        wait = min(self._policy.wait(self._attempt, self._retry_after), retry_seconds - elapsed)
        left = self._deadline - now
        if wait >= left:
            if min(self._retry_after, self._policy.longest) >= left or left < self._policy.base:
                raise errors.DeadlineExceededError(self._too_late())
            wait = left / 2  # leaves time for one more attempt
        return wait

    def give_up(self, error: errors.CapoError) -> list[tuple[int, wire.Result]]:
        """Failed results for all rollouts without one, because of `error`."""
        lost: list[tuple[int, wire.Result]] = [
            (p, failed(rollout, p, error)) for p, rollout in self._pending.items()
        ]
        self._pending = {}
        return lost

    def _too_late(self) -> str:
        cause = f"; the last attempt: {self.last_failure}" if self._last else ""
        return f"the deadline passed with {len(self._pending)} rollouts not credited{cause}"


def failed(rollout: RolloutLike, position: int, error: Exception) -> wire.Failed:
    """The result of a rollout that was not credited because of `error`."""
    problem = getattr(error, "problem", None) or wire.Problem(
        type="urn:capo:problem:deadline",
        title="The deadline has passed",
        status=504,
        detail=str(error),
    )
    return wire.Failed(id=name_of(rollout, str(position)), error=problem)
