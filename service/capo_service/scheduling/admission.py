"""Admission control and scheduling: a bounded, fair queue, counted in tokens, that can drain.

A request is admitted or refused as a whole; an admitted rollout is dropped only at its deadline.
The judge's tokens are shared between training and evaluation by weight, then equally between API
keys, then equally between the requests of a key, so that a short request does not wait for all of
a long one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from capo_service.scheduling.fair_queue import Path, QueueShare
from capo_service.scheduling.throughput import AnswerRate, Pace
from capo_wire import Priority

# While both wait, training gets 8 of 9 tokens, and evaluation is not starved.
_WEIGHTS: dict[Priority, float] = {"training": 8.0, "evaluation": 1.0}
_MAX_RETRY_AFTER = 60  # seconds: rates change within a minute
_SAFETY = 0.7  # share of a deadline that the expected time must fit into


class QueueFullError(Exception):
    """The request cannot be admitted now. `retry_after`: whole seconds until it probably can."""

    def __init__(self, retry_after: int, reason: str = "the queue is full") -> None:
        super().__init__(f"{reason}; room is expected in {retry_after} s")
        self.retry_after = retry_after


class DrainingError(Exception):
    """The service is shutting down and accepts no new work."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The scheduling attributes of a rollout: its request, API key and priority."""

    request: str
    key: str = ""
    priority: Priority = "training"

    @property
    def path(self) -> Path:
        """Names and weights of the rollout's shares, from the root down."""
        weight = _WEIGHTS[self.priority]
        return ((self.priority, weight), (self.key, 1.0), (self.request, 1.0))


class Admission:
    """Bounds the accepted work to `max_accepted_tokens` tokens, and the rollouts judged at once.

    Args:
        max_accepted_tokens: maximum tokens of all accepted and unanswered rollouts.
        max_running: maximum number of rollouts judged concurrently.
        is_full: whether the judge is saturated. Only then does more work mean a longer wait, so
            only the rate measured in that state predicts the wait.
        clock: seconds.
    """

    def __init__(
        self,
        max_accepted_tokens: int,
        max_running: int,
        is_full: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_accepted_tokens = max_accepted_tokens
        self.max_running = max_running
        self.accepted = 0  # rollouts
        self.accepted_tokens = 0
        self.queued_tokens = 0  # of rollouts that wait for a slot
        self.running = 0
        self.draining = False
        self._is_full = is_full
        self._was_full = False
        self._rate, self._full_rate = AnswerRate(clock), AnswerRate(clock)
        self._pace = Pace()
        self._clock = clock
        self._waiting: QueueShare[asyncio.Future[None]] = QueueShare()
        self._unanswered: dict[str, int] = {}  # tokens by open request
        self._idle = asyncio.Event()
        self._idle.set()

    def expected_wait(self, tokens: float) -> int:
        """Whole seconds, 1 to 60, until so many of the accepted tokens are answered."""
        self._measure()
        return _retry_after(self._until_answered(self._rate, tokens))

    def _until_answered(self, rate: AnswerRate, tokens: float) -> float | None:
        """Seconds until so many tokens are answered; None where too little was measured.

        A rate that was measured while fewer rollouts were judged at once, or before most of those
        judged now have ended, is far too low. By Little's law all rollouts judged at once are
        answered in the time that one takes, so the lower of both estimates holds.
        """
        measured = rate.expected_seconds(tokens)
        if measured is None:
            return None
        concurrency = max(self.running, min(self.accepted, self.max_running), 1)
        return min(measured, self._pace.mean_seconds(tokens) / concurrency)

    def _measure(self, answered: int = 0) -> None:
        self._rate.record(self.running > 0 or answered > 0, answered)
        self._full_rate.record(self._was_full, answered if self._was_full else 0)
        self._was_full = self._waiting.waiting > 0 or self._is_full()

    def _check_deadline(self, ticket: Ticket, rollouts: int, tokens: int, seconds: float) -> None:
        """Refuse a request that would miss its deadline.

        Raises:
            QueueFullError: it would.
        """
        self._measure()
        in_time = _SAFETY * seconds
        alone = self._pace.least_seconds(tokens / rollouts)
        if self.running and alone > in_time:
            # Fewer at once are judged faster: the next is admitted when none is being judged.
            raise QueueFullError(
                _retry_after(in_time),
                f"recent rollouts take about {alone:.0f} s, too long for the request's deadline of "
                f"{seconds:.0f} s",
            )
        if not self._was_full:
            return
        running = max(sum(self._unanswered.values()) - self._waiting.cost, 0.0)
        ahead = running + self._waiting.until_served(ticket.path, tokens)
        expected = self._until_answered(self._full_rate, ahead)
        itself = self._until_answered(self._full_rate, tokens)
        if expected is None or itself is None:
            return
        if itself > in_time:  # it cannot be answered in time as a whole, but a part of it can
            expected -= itself
        if expected > in_time:
            raise QueueFullError(
                _retry_after(expected - in_time),
                f"the request would be served after its deadline of {seconds:.0f} s",
            )

    @contextmanager
    def admit(
        self, rollouts: int, tokens: int, ticket: Ticket, seconds: float = math.inf
    ) -> Iterator[None]:
        """Hold queue capacity for a request until it is answered.

        Args:
            rollouts: number of rollouts in it.
            tokens: estimated tokens of all its rollouts.
            ticket: scheduling attributes.
            seconds: time until its deadline.

        Raises:
            DrainingError: the service is shutting down.
            QueueFullError: the queue is full, or the request would miss its deadline.
        """
        if self.draining:
            raise DrainingError
        excess = self.accepted_tokens + tokens - self.max_accepted_tokens
        if excess > 0:
            raise QueueFullError(self.expected_wait(excess))
        self._check_deadline(ticket, rollouts, tokens, seconds)
        self.accepted += rollouts
        self.accepted_tokens += tokens
        self._unanswered[ticket.request] = tokens
        self._idle.clear()
        try:
            yield
        finally:
            self.accepted -= rollouts
            self.accepted_tokens -= tokens
            del self._unanswered[ticket.request]
            if not self.accepted:
                self._idle.set()

    @asynccontextmanager
    async def slot(self, ticket: Ticket, tokens: int) -> AsyncIterator[None]:
        """Wait for one of the `max_running` slots, and hold it, for a rollout of `tokens`."""
        if self.running < self.max_running and not self._waiting.waiting:
            self._measure()
            self.running += 1
        else:
            await self._wait(ticket, tokens)  # a rollout that ends hands its slot over
        answered, began = 0, self._clock()
        try:
            yield
            answered = tokens
        finally:
            self._pace.record(self._clock() - began, tokens, finished=answered > 0)
            self._measure(answered)
            if ticket.request in self._unanswered:
                self._unanswered[ticket.request] -= tokens
            self._hand_over_slot()

    async def _wait(self, ticket: Ticket, tokens: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.push(ticket.path, future, tokens)
        self.queued_tokens += tokens
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._hand_over_slot()  # the slot came together with the cancellation
            else:
                self._waiting.discard(ticket.path, future)
            raise
        finally:
            self.queued_tokens -= tokens

    def _hand_over_slot(self) -> None:
        while self._waiting.waiting:
            future = self._waiting.pop()
            if not future.done():  # else cancelled, and about to leave the queue by itself
                future.set_result(None)
                return
        self.running -= 1

    async def drain(self, seconds: float) -> bool:
        """Refuse new work and wait for accepted rollouts; returns whether all ended in time."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()  # returns at once where nothing is accepted
        except TimeoutError:
            return False
        return True


def _retry_after(seconds: float | None) -> int:
    return 1 if seconds is None else min(max(1, math.ceil(seconds)), _MAX_RETRY_AFTER)
