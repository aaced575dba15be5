"""When to try again, and how long to wait first."""

from __future__ import annotations

import random
from dataclasses import dataclass

RETRYABLE = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter; a Retry-After of the service is the least wait.

    By default a service that comes back within a minute or so loses nobody's rollouts.

    Attributes:
        attempts: how often a rollout is sent without anything coming of it, the first included. A
            429 does not count: the service is well, and the deadline bounds how long it is full.
        base: seconds; the first wait is at most this, and each further one at most twice the last.
        longest: seconds; no wait is longer, whatever the service asks for.
    """

    attempts: int = 12
    base: float = 0.25
    longest: float = 30.0

    def wait(self, attempt: int, retry_after: float = 0.0) -> float:
        """Seconds to wait after the given attempt, counted from 1, has failed."""
        backoff = min(self.longest, self.base * 2.0 ** min(attempt - 1, 32))
        jittered = backoff * random.random()  # noqa: S311  # not a secret
        return min(self.longest, retry_after + jittered)


def retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header; 0 for none, or a date (the backoff then serves)."""
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        return 0.0
