"""Admission and early stop, whatever happens in whatever order (hypothesis, stateful)."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from capo_service.core import voting
from capo_service.scheduling.admission import Admission, DrainingError, QueueFullError, Ticket

MOST_TOKENS, PLACES = 500, 3


@dataclass
class Open:
    """A request that was admitted, and its rollouts."""

    ticket: Ticket
    tokens: list[int]
    held: AbstractContextManager[None]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    finish: list[asyncio.Event] = field(default_factory=list)
    running: set[int] = field(default_factory=set)


class Admitting(RuleBasedStateMachine):
    """Against a plain count of what is open: no room, place or token is lost or given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.full = 0.0, False
        self.loop = asyncio.new_event_loop()
        self.admission = Admission(MOST_TOKENS, PLACES, lambda: self.full, lambda: self.now)
        self.open: list[Open] = []
        self.number = 0
        self.draining = False

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    @rule(
        tokens=st.lists(st.integers(1, 200), min_size=1, max_size=4),
        key=st.sampled_from("ab"),
        priority=st.sampled_from(["training", "evaluation"]),
        seconds=st.sampled_from([0.5, 10.0, 1e6]),
    )
    def ask(self, tokens: list[int], key: str, priority: str, seconds: float) -> None:
        self.number += 1
        ticket = Ticket(f"r{self.number}", key, priority)  # type: ignore[arg-type]
        held = self.admission.admit(len(tokens), sum(tokens), ticket, seconds)
        fits = sum(map(sum, (each.tokens for each in self.open))) + sum(tokens) <= MOST_TOKENS
        try:
            held.__enter__()
        except DrainingError:
            assert self.draining
        except QueueFullError as error:
            assert not fits or self.full or self.admission.running
            assert 1 <= error.retry_after <= 3600
        else:
            assert fits and not self.draining
            request = Open(ticket, tokens, held)
            for position, cost in enumerate(tokens):
                request.finish.append(asyncio.Event())
                work = self.work(request, position, cost)
                request.tasks.append(self.loop.create_task(work))
            self.open.append(request)
            self.settle()

    async def work(self, request: Open, position: int, cost: int) -> None:
        async with self.admission.slot(request.ticket, cost):
            request.running.add(position)
            try:
                await request.finish[position].wait()
            finally:
                request.running.discard(position)

    @precondition(lambda self: any(each.running for each in self.open))
    @rule(data=st.data(), seconds=st.floats(0, 30))
    def finish_one(self, data: st.DataObject, seconds: float) -> None:
        request = data.draw(st.sampled_from([each for each in self.open if each.running]))
        self.now += seconds
        request.finish[data.draw(st.sampled_from(sorted(request.running)))].set()
        self.settle()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        """Or come to the end: whatever is left of a request is cancelled, and its room given back."""
        request = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        for task in request.tasks:
            task.cancel()
        self.settle()
        assert all(task.done() for task in request.tasks)
        request.held.__exit__(None, None, None)

    @rule(full=st.booleans(), seconds=st.floats(0, 100))
    def time_passes(self, full: bool, seconds: float) -> None:
        self.full, self.now = full, self.now + seconds

    @precondition(lambda self: not self.draining)
    @rule(really=st.integers(0, 9))
    def drain(self, really: int) -> None:
        if really == 0:
            self.draining = True
            ended = self.loop.run_until_complete(self.admission.drain(0.0))
            assert ended == (not self.open)

    @invariant()
    def adds_up(self) -> None:
        admission = self.admission
        unfinished = [(r, n) for r in self.open for n, t in enumerate(r.tasks) if not t.done()]
        running = sum(len(request.running) for request in self.open)
        assert admission.accepted == sum(len(request.tokens) for request in self.open)
        assert admission.accepted_tokens == sum(sum(request.tokens) for request in self.open)
        assert admission.accepted_tokens <= MOST_TOKENS
        assert admission.running == running == min(PLACES, len(unfinished))
        waiting = [r.tokens[n] for r, n in unfinished if n not in r.running]
        assert admission.queued_tokens == sum(waiting)
        assert 1 <= admission.expected_wait(100) <= 3600

    def teardown(self) -> None:
        for request in self.open:
            for task in request.tasks:
                task.cancel()
        self.settle()
        assert self.admission.running == 0 and self.admission.queued_tokens == 0
        self.loop.close()


def verdicts(n_steps: int) -> st.SearchStrategy[voting.WrongSteps]:
    return st.none() | st.frozensets(st.integers(0, n_steps - 1))


class Stopping(RuleBasedStateMachine):
    """Critiques come one by one; once the vote is decided, nothing that could come changes it."""

    @initialize(
        method=st.sampled_from(["greedy", "intersection", "majority", "union", "average"]),
        n_steps=st.integers(1, 5),
        asked=st.integers(1, 9),
    )
    def begin(self, method: voting.Method, n_steps: int, asked: int) -> None:
        self.method, self.n_steps = method, n_steps
        self.asked = 1 if method == "greedy" else asked
        self.cast: list[voting.WrongSteps] = []
        self.settled: list[float] | None = None

    @property
    def remaining(self) -> int:
        return self.asked - len(self.cast)

    def outcome(self, extra: list[voting.WrongSteps]) -> list[float] | None:
        votes = voting.VoteCount.of([*self.cast, *extra], self.n_steps)
        return votes.penalties(self.method) if votes.valid else None

    @precondition(lambda self: self.remaining)
    @rule(data=st.data())
    def a_critique_comes(self, data: st.DataObject) -> None:
        self.cast.append(data.draw(verdicts(self.n_steps)))

    @rule(data=st.data())
    def the_rest_could_say_anything(self, data: st.DataObject) -> None:
        rest = st.lists(verdicts(self.n_steps), min_size=self.remaining, max_size=self.remaining)
        end = self.outcome(data.draw(rest))
        if self.settled is not None:
            assert end == self.settled

    @invariant()
    def decided_stays_decided(self) -> None:
        votes = voting.VoteCount.of(self.cast, self.n_steps)
        decided = votes.decided(self.method, self.remaining)
        if self.settled is not None:
            assert decided and self.outcome([]) == self.settled
        elif decided and votes.valid:
            self.settled = self.outcome([])

    @invariant()
    def a_wave_is_never_empty_nor_too_long(self) -> None:
        votes = voting.VoteCount.of(self.cast, self.n_steps)
        if self.remaining:
            assert 1 <= votes.next_wave(self.method, self.remaining) <= self.remaining


Admitting.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
Stopping.TestCase.settings = settings(max_examples=200, stateful_step_count=20, deadline=None)
TestAdmitting = pytest.mark.timeout(300)(Admitting.TestCase)
TestStopping = pytest.mark.timeout(300)(Stopping.TestCase)
