"""Who is let in, and whose turn it is: a bounded queue in tokens, fair, that can drain.

A request is admitted whole or refused whole; nothing admitted is dropped but by its own deadline.
Turns are shared in tokens: between training and evaluation by weight, then equally between keys,
then between the requests of a key, so that a long request does not make a short one wait for all
of it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from capo_service.scheduling.fair_queue import Path, Share
from capo_wire import Priority

# Of nine tokens, while both wait. Evaluation comes after training, and still comes.
_WEIGHTS: dict[Priority, float] = {"training": 8.0, "evaluation": 1.0}
_HALF_LIFE = 15.0  # seconds of work after which a measured rate counts for half
_LONGEST_WAIT = 60  # seconds that a caller is told to wait at most: rates change within a minute
_LEAST_ANSWERED = 5  # rollouts, before a rate counts: the first are slow, and few of many are ready
_NEWEST = 0.2  # share of the newest rollout in the pace
_CERTAINTY = 0.7  # of a deadline: what should take longer is not taken on


class QueueFullError(Exception):
    """No room for the request now. `retry_after`: whole seconds until there should be."""

    def __init__(self, retry_after: int, why: str = "the queue is full") -> None:
        super().__init__(f"{why}; room is expected in {retry_after} s")
        self.retry_after = retry_after


class DrainingError(Exception):
    """The service is stopping and takes no new work."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """In whose name a rollout waits."""

    request: str
    key: str = ""
    priority: Priority = "training"

    @property
    def path(self) -> Path:
        weight = _WEIGHTS[self.priority]
        return ((self.priority, weight), (self.key, 1.0), (self.request, 1.0))


class DrainRate:
    """Tokens that are answered in a second of work, lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = self._seconds = 0.0
        self._answered = 0  # rollouts
        self._at = clock()

    def passed(self, busy: bool, tokens: float = 0.0) -> None:
        """Time passed since the last call, busy or not, and so many tokens were answered."""
        now = self._clock()
        elapsed, self._at = now - self._at, now
        if busy:
            faded = 0.5 ** (elapsed / _HALF_LIFE)
            self._seconds = self._seconds * faded + elapsed
            self._tokens = self._tokens * faded
        self._tokens += tokens
        self._answered += tokens > 0

    def seconds(self, tokens: float) -> float | None:
        """How long so many tokens take; None where too little was measured."""
        if self._answered < _LEAST_ANSWERED:
            return None
        return tokens * self._seconds / self._tokens


class Pace:
    """Seconds of judging for each token of a rollout, lately.

    A judge that was slowed down may answer nothing in time, and then there is no rate to measure;
    but what was cut off at its deadline has taken at least so long.
    """

    def __init__(self) -> None:
        self._seconds = self._weight = 0.0

    def took(self, seconds: float, tokens: int, finished: bool) -> None:
        """A rollout of so many tokens took so long, or longer if it was not finished."""
        each = seconds / tokens
        if finished or each > self._seconds:
            self._seconds += _NEWEST * (each - self._seconds)
            self._weight += _NEWEST * (1.0 - self._weight)

    def seconds(self, tokens: float) -> float:
        """How long a rollout of so many tokens should take, at least: it starts from 0."""
        return tokens * self._seconds

    def measured(self, tokens: float) -> float:
        """How long a rollout of so many tokens takes on the average; 0 where nothing is known."""
        return tokens * self._seconds / self._weight if self._weight else 0.0


class Admission:
    """Bounds accepted work to `max_queued` tokens, and the rollouts judged at once.

    Args:
        max_queued: tokens of all rollouts that are accepted and not yet answered.
        max_running: rollouts that the judge works on at once.
        is_full: whether the judge can take up no more. Only then does more work mean more waiting,
            and only the rate that is measured then tells how long.
        clock: seconds.
    """

    def __init__(
        self,
        max_queued: int,
        max_running: int,
        is_full: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_queued = max_queued
        self.max_running = max_running
        self.accepted = 0  # rollouts
        self.accepted_tokens = 0
        self.queued_tokens = 0  # of rollouts that wait for their turn
        self.running = 0
        self.draining = False
        self._is_full = is_full
        self._was_full = False
        self._rate, self._full_rate = DrainRate(clock), DrainRate(clock)
        self._pace = Pace()
        self._clock = clock
        self._waiting: Share[asyncio.Future[None]] = Share()
        self._left: dict[str, int] = {}  # tokens of open requests that are not answered yet
        self._idle = asyncio.Event()
        self._idle.set()

    def expected_wait(self, tokens: float) -> int:
        """Whole seconds, at least 1, until so many of the accepted tokens are answered."""
        self._measure()
        return _whole(self._until_answered(self._rate, tokens))

    def _until_answered(self, rate: DrainRate, tokens: float) -> float | None:
        """Seconds until so many tokens are answered; None where too little was measured.

        A rate that was measured while fewer rollouts were judged at once, or before most of those
        that are judged now have ended, is too low by far. By Little's law all that are judged at
        once are answered in the time that one takes, so the lower of both times holds.
        """
        measured = rate.seconds(tokens)
        if measured is None:
            return None
        at_once = max(self.running, min(self.accepted, self.max_running), 1)
        return min(measured, self._pace.measured(tokens) / at_once)

    def _measure(self, answered: int = 0) -> None:
        self._rate.passed(self.running > 0 or answered > 0, answered)
        self._full_rate.passed(self._was_full, answered if self._was_full else 0)
        self._was_full = self._waiting.waiting > 0 or self._is_full()

    def _check_deadline(self, ticket: Ticket, rollouts: int, tokens: int, seconds: float) -> None:
        """Refuse what would be answered too late.

        Raises:
            QueueFullError: it would.
        """
        self._measure()
        alone = self._pace.seconds(tokens / rollouts)
        if self.running and alone > _CERTAINTY * seconds:
            # Fewer at once are judged faster: the next is let in when none is being judged.
            raise QueueFullError(
                _whole(_CERTAINTY * seconds),
                f"recent rollouts take about {alone:.0f} s, too long for its deadline of "
                f"{seconds:.0f} s",
            )
        if not self._was_full:
            return
        begun = sum(self._left.values()) - self._waiting.cost
        work = max(begun, 0.0) + self._waiting.until_served(ticket.path, tokens)
        expected = self._until_answered(self._full_rate, work)
        itself = self._until_answered(self._full_rate, tokens)
        if expected is None or itself is None:
            return
        in_time = _CERTAINTY * seconds
        if itself > in_time:  # it can never be answered in time as a whole; what is done, is
            expected -= itself
        if expected > in_time:
            raise QueueFullError(
                _whole(expected - in_time),
                f"its turn would come after its deadline of {seconds:.0f} s",
            )

    @contextmanager
    def admit(
        self, rollouts: int, tokens: int, ticket: Ticket, seconds: float = math.inf
    ) -> Iterator[None]:
        """Hold room for a request of so many rollouts and tokens, to be answered in `seconds`.

        Raises:
            DrainingError: the service is stopping.
            QueueFullError: there is no room now, or too much is before it.
        """
        if self.draining:
            raise DrainingError
        excess = self.accepted_tokens + tokens - self.max_queued
        if excess > 0:
            raise QueueFullError(self.expected_wait(excess))
        self._check_deadline(ticket, rollouts, tokens, seconds)
        self.accepted += rollouts
        self.accepted_tokens += tokens
        self._left[ticket.request] = tokens
        self._idle.clear()
        try:
            yield
        finally:
            self.accepted -= rollouts
            self.accepted_tokens -= tokens
            del self._left[ticket.request]
            if not self.accepted:
                self._idle.set()

    @asynccontextmanager
    async def turn(self, ticket: Ticket, tokens: int) -> AsyncIterator[None]:
        """Wait for, and hold, one of the `max_running` places, for a rollout of so many tokens."""
        if self.running < self.max_running and not self._waiting.waiting:
            self._measure()
            self.running += 1
        else:
            await self._wait(ticket, tokens)  # the place is handed over by whoever leaves it
        answered, began = 0, self._clock()
        try:
            yield
            answered = tokens
        finally:
            self._pace.took(self._clock() - began, tokens, finished=answered > 0)
            self._measure(answered)
            if ticket.request in self._left:
                self._left[ticket.request] -= tokens
            self._pass_on()

    async def _wait(self, ticket: Ticket, tokens: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.push(ticket.path, future, tokens)
        self.queued_tokens += tokens
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._pass_on()  # the place came together with the cancellation
            else:
                self._waiting.discard(ticket.path, future)
            raise
        finally:
            self.queued_tokens -= tokens

    def _pass_on(self) -> None:
        while self._waiting.waiting:
            future = self._waiting.pop()
            if not future.done():  # cancelled, and about to take itself out of the queue
                future.set_result(None)
                return
        self.running -= 1

    async def drain(self, seconds: float) -> bool:
        """Take no new work and wait for the accepted; whether it all ended in time."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()  # returns at once where nothing is accepted
        except TimeoutError:
            return False
        return True


def _whole(seconds: float | None) -> int:
    """Seconds that a caller is told to wait."""
    return 1 if seconds is None else min(max(1, math.ceil(seconds)), _LONGEST_WAIT)
