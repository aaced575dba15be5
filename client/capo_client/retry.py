"""The client's retry policy, and the log lines while it waits.

Backoff, Retry-After and retryable statuses are those of `capo_wire.retry_policy`, as in the
service. Not tenacity or stamina, which retry a call as a whole: here an attempt may credit a part
of its rollouts, continue at another replica without a wait, or meet a 429, which is not counted.
The loop in `sending` therefore decides after each attempt, by the state of the chunk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from capo_wire.retry_policy import wait_seconds

_LOG_INTERVAL = 10.0  # seconds between two lines of one client

_log = logging.getLogger("capo_client")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter; Retry-After is the shortest wait.

    By default, attempts are bounded only by the deadline of the call: a judge that restarts and
    takes minutes to load loses no rollouts. A failure that a retry cannot fix, such as an unknown
    host or an untrusted certificate, is raised within seconds.

    Attributes:
        attempts: the maximum number of consecutive attempts without a result, including the first;
            None: unlimited. A 429 is not counted: the service is healthy.
        base: seconds; upper bound of the first wait, doubled for each further attempt.
        longest: seconds; upper bound of every wait, including Retry-After.
    """

    attempts: int | None = None
    base: float = 0.25
    longest: float = 30.0

    def wait(self, attempt: int, retry_after: float = 0.0) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            attempt: its number, counted from 1.
            retry_after: seconds of the Retry-After header.
        """
        return wait_seconds(attempt, retry_after, base=self.base, longest=self.longest)


class WaitLog:
    """Logs what a client waits for: at most one line in 10 s, over all of its requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until = 0.0

    def waiting(self, url: str, attempt: int, reason: str, left: float | None = None) -> None:
        """Log a wait.

        Args:
            url: the service's URL.
            attempt: the number of the next attempt.
            reason: why the last one failed.
            left: seconds until the deadline; None without one.
        """
        if self._clock() >= self._quiet_until:
            self._quiet_until = self._clock() + _LOG_INTERVAL
            reason = reason.removeprefix(f"{url} ")
            until = "" if left is None else f", {left:.0f} s left"
            _log.warning("waiting for %s (attempt %d%s): %s", url, attempt, until, reason)
