"""Quotas of one API key: unanswered rollouts, and rollouts per minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

_ROUNDING = 1e-6  # rollouts: sums of seconds are not exact, and the wait returned must suffice


class QuotaError(Exception):
    """The request exceeds what its key allows now. `retry_after`: whole seconds."""

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class QuotaTooSmallError(Exception):
    """The request exceeds what its key ever allows, however long the caller waits."""


class Limits(Protocol):
    """The limits of a key; None is unlimited."""

    @property
    def name(self) -> str: ...
    @property
    def max_queued(self) -> int | None: ...
    @property
    def rollouts_per_minute(self) -> int | None: ...


class Quota:
    """Usage of one key.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.queued = 0  # rollouts that are not answered yet
        self._clock = clock
        self._level: float | None = None  # rollouts in the bucket; None: it is full
        self._at = clock()

    @contextmanager
    def hold(
        self, key: Limits, rollouts: int, expected_wait: Callable[[int], int]
    ) -> Iterator[None]:
        """Count a request until it is answered.

        Args:
            key: the key's limits, which may change between calls.
            rollouts: in the request.
            expected_wait: returns the whole seconds until that many rollouts are answered.

        Raises:
            QuotaTooSmallError: it is more than the key ever allows.
            QuotaError: it is more than the key allows now.
        """
        self._check_size(key, rollouts)
        if key.max_queued is not None and (more := self.queued + rollouts - key.max_queued) > 0:
            raise QuotaError(
                f"the key {key.name} has {self.queued} unanswered rollouts and allows "
                f"{key.max_queued} (max_queued)",
                expected_wait(more),
            )
        self._take(key, rollouts)
        self.queued += rollouts
        try:
            yield
        finally:
            self.queued -= rollouts

    def _check_size(self, key: Limits, rollouts: int) -> None:
        limits = ("max_queued", key.max_queued), ("rollouts_per_minute", key.rollouts_per_minute)
        for name, limit in limits:
            if limit is not None and rollouts > limit:
                raise QuotaTooSmallError(
                    f"the request has {rollouts} rollouts and the key {key.name} allows {limit} "
                    f"({name}); send fewer in one request"
                )

    def _take(self, key: Limits, rollouts: int) -> None:
        """Take from a token bucket that holds one minute's rollouts and fills evenly."""
        full = key.rollouts_per_minute
        if full is None:
            return
        now = self._clock()
        level = full if self._level is None else self._level + (now - self._at) * full / 60
        self._level, self._at = min(float(full), level), now
        if self._level < rollouts - _ROUNDING:
            wait = (rollouts - self._level) * 60 / full
            raise QuotaError(
                f"the key {key.name} allows {full} rollouts per minute (rollouts_per_minute)",
                max(1, math.ceil(wait)),
            )
        self._level = max(0.0, self._level - rollouts)
