"""How fast the judge answers, measured from its recent work."""

from __future__ import annotations

import time
from collections.abc import Callable

_HALF_LIFE = 15.0  # seconds of work after which a measurement counts for half
_MIN_ANSWERED = 5  # rollouts before a rate is used, because the first ones are slow
_NEWEST = 0.2  # weight of the newest rollout in the moving average


class AnswerRate:
    """Tokens answered per second of work, as an exponentially weighted average.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = self._seconds = 0.0
        self._answered = 0  # rollouts
        self._at = clock()

    def record(self, busy: bool, tokens: float = 0.0) -> None:
        """Record the time since the last call.

        Args:
            busy: whether the judge worked in that time; idle time is not counted.
            tokens: tokens of the rollout that was answered, if one was.
        """
        now = self._clock()
        elapsed, self._at = now - self._at, now
        if busy:
            decay = 0.5 ** (elapsed / _HALF_LIFE)
            self._seconds = self._seconds * decay + elapsed
            self._tokens = self._tokens * decay
        self._tokens += tokens
        self._answered += tokens > 0

    def expected_seconds(self, tokens: float) -> float | None:
        """Seconds to answer `tokens`; None before 5 rollouts were measured."""
        if self._answered < _MIN_ANSWERED:
            return None
        return tokens * self._seconds / self._tokens


class Pace:
    """Seconds that a rollout is with the judge, per token, as a moving average.

    With a slow judge all rollouts may miss their deadlines, so that no rate can be measured. But a
    rollout that was aborted at its deadline took at least that long.
    """

    def __init__(self) -> None:
        self._seconds = self._weight = 0.0

    def record(self, seconds: float, tokens: int, finished: bool) -> None:
        """Record a rollout of `tokens` that took `seconds`, or longer if it was not finished."""
        per_token = seconds / tokens
        if finished or per_token > self._seconds:
            self._seconds += _NEWEST * (per_token - self._seconds)
            self._weight += _NEWEST * (1.0 - self._weight)

    def least_seconds(self, tokens: float) -> float:
        """Lower estimate of the seconds for a rollout of `tokens`: the average starts at 0."""
        return tokens * self._seconds

    def mean_seconds(self, tokens: float) -> float:
        """Average seconds of a rollout of `tokens`; 0 before the first measurement."""
        return tokens * self._seconds / self._weight if self._weight else 0.0
