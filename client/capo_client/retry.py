"""When to try again, how long to wait first, and what the log says meanwhile."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

# Full, not ready, or a body that came too slowly; and what proxies say of a service that is away:
# Cloudflare's 520 to 525, and 529, which is another way to say 503.
RETRYABLE = frozenset({408, 429, 503, *range(520, 526), 529})

_LOG_SECONDS = 10.0  # between two lines about one client

_log = logging.getLogger("capo_client")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter; a Retry-After of the service is the least wait.

    By default only the deadline of a call bounds its attempts: a judge that restarts and takes
    minutes to load loses no rollouts. What no retry can fix is raised within seconds: an unknown
    host, a certificate that is not trusted.

    Attributes:
        attempts: how often a rollout is sent at most without anything coming of it, the first
            included; None for as often as the deadline allows. A 429 does not count: the service
            is well.
        base: seconds; the first wait is at most this, and each further one at most twice the last.
        longest: seconds; no wait is longer, whatever the service asks for.
    """

    attempts: int | None = None
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


class WaitLog:
    """Logs what a client waits for, at most every 10 s however many of its requests wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until = 0.0

    def waiting(self, url: str, attempt: int, why: str) -> None:
        """`attempt`: the number of the one that comes next."""
        if self._clock() >= self._quiet_until:
            self._quiet_until = self._clock() + _LOG_SECONDS
            why = why.removeprefix(f"{url} ")
            _log.warning("waiting for %s (attempt %d): %s", url, attempt, why)
