"""Admission: capacity in tokens, fair order, Retry-After, and slots that are never lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from capo_service.scheduling.admission import (
    Admission,
    DrainingError,
    QueueFullError,
    Ticket,
)
from capo_service.scheduling.fair_queue import QueueShare
from capo_service.scheduling.throughput import AnswerRate


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(share: QueueShare[str], tokens: int, cost: Callable[[str], float]) -> Counter[str]:
    """Tokens by who got them, of the first so many."""
    found: Counter[str] = Counter()
    while found.total() < tokens:
        name = share.pop()
        found[name] += int(cost(name))
    return found


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 50), min_size=2))
def test_tokens_are_shared_equally_whatever_an_item_costs(costs: dict[str, int]) -> None:
    share: QueueShare[str] = QueueShare()
    for name, cost in costs.items():
        for _ in range(2000 // cost):
            share.push([(name, 1.0)], name, cost)
    got = taken(share, 200 * len(costs), costs.__getitem__)
    assert max(got[name] for name in costs) - min(got[name] for name in costs) <= 2 * 50


@given(st.floats(0.5, 20), st.floats(0.5, 20))
def test_shares_follow_their_weights(one: float, other: float) -> None:
    share: QueueShare[str] = QueueShare()
    for _ in range(1000):
        share.push([("one", one)], "one", 1)
        share.push([("other", other)], "other", 1)
    got = taken(share, 900, lambda _: 1)
    assert got["one"] == pytest.approx(900 * one / (one + other), abs=2)


def test_idle_time_earns_no_credit_and_large_items_cost_turns() -> None:
    share: QueueShare[str] = QueueShare()
    for _ in range(300):
        share.push([("busy", 1.0)], "busy", 1)
    for _ in range(100):
        share.pop()
    for _ in range(100):
        share.push([("late", 1.0)], "late", 1)
    assert taken(share, 100, lambda _: 1)["late"] == pytest.approx(50, abs=1)
    # One that asks again and again for much gets no more than its share of tokens either.
    share = QueueShare()
    for _ in range(1000):
        share.push([("small", 1.0)], "small", 1)
    got: Counter[str] = Counter()
    share.push([("large", 1.0)], "large", 20)
    while share.waiting and got.total() < 400:
        name = share.pop()
        got[name] += 20 if name == "large" else 1
        if name == "large":
            share.push([("large", 1.0)], "large", 20)
    assert got["large"] == pytest.approx(200, abs=20)


def test_repeated_idling_earns_no_credit() -> None:
    share: QueueShare[str] = QueueShare()
    for _ in range(300):
        share.push([("busy", 1.0)], "busy", 1)
    for _ in range(100):
        share.pop()
    got: Counter[str] = Counter()
    share.push([("late", 1.0)], "late", 1)
    for _ in range(100):
        name = share.pop()
        got[name] += 1
        if name == "late":
            share.push([("late", 1.0)], "late", 1)
    assert got["late"] == pytest.approx(50, abs=1)


class Queue(RuleBasedStateMachine):
    """Against a plain list: nothing is lost, nothing comes twice, own order is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.share: QueueShare[tuple[str, str, int]] = QueueShare()
        self.waiting: list[tuple[str, str, int]] = []
        self.costs: dict[int, int] = {}
        self.number = 0

    @rule(key=st.sampled_from("ab"), request=st.sampled_from("xyz"), cost=st.integers(1, 9))
    def push(self, key: str, request: str, cost: int) -> None:
        self.number += 1
        item = key, request, self.number
        self.waiting.append(item)
        self.costs[self.number] = cost
        self.share.push([(key, 1.0), (request, 1.0)], item, cost)

    @precondition(lambda self: self.waiting)
    @rule()
    def pop(self) -> None:
        item = self.share.pop()
        mine = [each for each in self.waiting if each[:2] == item[:2]]
        assert item == mine[0]
        self.waiting.remove(item)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        path = [(item[0], 1.0), (item[1], 1.0)]
        assert self.share.discard(path, item)
        assert not self.share.discard(path, item)
        self.waiting.remove(item)

    @invariant()
    def counts(self) -> None:
        assert self.share.waiting == len(self.waiting)
        assert self.share.cost == sum(self.costs[number] for *_, number in self.waiting)
        for key, of_key in self.share._shares.items():
            for request, share in of_key._shares.items():
                mine = [self.costs[w[2]] for w in self.waiting if w[:2] == (key, request)]
                assert share.cost == sum(mine)
            assert of_key.cost == sum(share.cost for share in of_key._shares.values())
        if not self.waiting:
            with pytest.raises(IndexError):
                self.share.pop()


Queue.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestQueue = Queue.TestCase


def test_queue_capacity_is_counted_in_tokens() -> None:
    admission = Admission(max_accepted_tokens=100, max_running=1)
    with admission.admit(1, 60, Ticket("a")):
        with pytest.raises(QueueFullError):
            admission.admit(1, 41, Ticket("b")).__enter__()
        with admission.admit(50, 40, Ticket("b")):
            assert (admission.accepted, admission.accepted_tokens) == (51, 100)
    assert (admission.accepted, admission.accepted_tokens) == (0, 0)


def test_a_draining_queue_refuses_requests() -> None:
    async def story() -> None:
        admission = Admission(100, 1)
        assert await admission.drain(1)
        with pytest.raises(DrainingError):
            admission.admit(1, 1, Ticket("a")).__enter__()

    asyncio.run(story())


@given(st.integers(1, 500), st.floats(0.01, 5), st.integers(1, 400))
def test_the_expected_wait_follows_the_measured_rate(cost: int, seconds: float, ahead: int) -> None:
    clock = Clock()
    rate = AnswerRate(clock)
    assert rate.expected_seconds(ahead) is None
    for _ in range(100):
        clock.now += seconds
        rate.record(True, cost)
        clock.now += 3.0  # idle, which says nothing about how fast work is
        rate.record(False)
    assert rate.expected_seconds(ahead) == pytest.approx(ahead * seconds / cost, rel=0.1)


def test_the_rate_adapts_within_minutes() -> None:
    clock = Clock()
    rate = AnswerRate(clock)
    for speed in (100, 10):
        for _ in range(180):
            clock.now += 1
            rate.record(True, speed)
    found = rate.expected_seconds(100)
    assert found is not None and 8 < found <= 10.5


def test_retry_after_is_at_least_a_second_and_at_most_a_minute() -> None:
    clock = Clock()
    admission = Admission(100, 1, clock=clock)
    assert admission.expected_wait(50) == 1

    async def work() -> None:
        for number in range(10):
            async with admission.slot(Ticket("r"), 10):
                clock.now += 5.0
            # A few rollouts, of which the first are slow, say nothing yet.
            assert admission.expected_wait(20) == (1 if number < 4 else 10)

    asyncio.run(work())
    assert admission.expected_wait(0.001) == 1
    assert admission.expected_wait(1e9) == 60


def told_in_a_burst(
    at_once: int, seconds: float, tokens: int, rollouts: int, before: int = 0, full: bool = False
) -> list[tuple[float, float]]:
    """A burst on a judge that answers `at_once` rollouts every `seconds` seconds.

    Returns:
        At each rollout's end: the seconds told for 100 rollouts more, and those that they take.
    """
    clock = Clock()
    admission = Admission(10**9, at_once, lambda: full, clock)
    told: list[tuple[float, float]] = []
    more = 100 * tokens

    async def one(ticket: Ticket, end: asyncio.Event) -> None:
        async with admission.slot(ticket, tokens):
            await end.wait()

    async def story() -> None:
        for _ in range(before):  # one at a time, as fast each
            async with admission.slot(Ticket("before"), tokens):
                clock.now += seconds
        ticket = Ticket("burst")
        with admission.admit(rollouts, rollouts * tokens, ticket):
            ends = [asyncio.Event() for _ in range(rollouts)]
            tasks = [asyncio.create_task(one(ticket, end)) for end in ends]
            for number, (end, task) in enumerate(zip(ends, tasks, strict=True)):
                await asyncio.sleep(0)
                if number % at_once == 0:
                    clock.now += seconds
                end.set()
                await task
                if number < rollouts - at_once:
                    right = 100 / at_once * seconds
                    told.append((admission.expected_wait(more), right))
                    try:
                        with admission.admit(1, tokens, Ticket("late"), seconds=1e-9):
                            pass
                    except QueueFullError as error:
                        left = (rollouts - number) / at_once * seconds + seconds
                        told.append((error.retry_after, left))

    asyncio.run(story())
    return told


@settings(max_examples=100)
@given(
    st.integers(2, 64),
    st.floats(0.05, 30),
    st.integers(1, 3000),
    st.integers(2, 4),
    st.sampled_from([0, 1, 7, 50]),
    st.booleans(),
)
def test_retry_after_is_not_estimated_from_the_first_of_many(
    at_once: int, seconds: float, tokens: int, turns: int, before: int, full: bool
) -> None:
    """As 357 s was, when one of 128 rollouts had ended, and the others were about to."""
    for told, right in told_in_a_burst(at_once, seconds, tokens, turns * at_once, before, full):
        assert told <= 2.0 * right + 2.0
        assert 1 <= told <= 60


def order_of(tickets: list[Ticket], tokens: int = 10) -> list[Ticket]:
    """Who got the only place, one after the other; all wait before the first gets it."""
    got: list[Ticket] = []

    async def story() -> None:
        admission = Admission(10**9, 1)
        go = asyncio.Event()

        async def hold() -> None:
            async with admission.slot(Ticket("first"), 1):
                await go.wait()

        async def wait(ticket: Ticket) -> None:
            async with admission.slot(ticket, tokens):
                got.append(ticket)

        async with asyncio.TaskGroup() as group:
            group.create_task(hold())
            await asyncio.sleep(0)
            for ticket in tickets:
                group.create_task(wait(ticket))
            await asyncio.sleep(0.01)
            assert admission.queued_tokens == tokens * len(tickets)
            go.set()
        assert admission.running == 0 and admission.queued_tokens == 0

    asyncio.run(story())
    return got


def test_tokens_until_served_follow_from_the_queue() -> None:
    share: QueueShare[str] = QueueShare()
    assert share.until_served([("a", 1.0), ("r1", 1.0)], 7) == 7
    for _ in range(100):
        share.push([("a", 1.0), ("r1", 1.0)], "x", 10)
    assert share.cost == 1000
    # Its own request is before it; another of the same key has half; of another key too.
    assert share.until_served([("a", 1.0), ("r1", 1.0)], 10) == 1010
    assert share.until_served([("a", 1.0), ("r2", 1.0)], 10) == 20
    assert share.until_served([("b", 1.0), ("r1", 1.0)], 10) == 20
    assert share.until_served([("b", 1.0), ("r1", 1.0)], 5000) == 6000
    assert share.until_served([("b", 0.125), ("r1", 1.0)], 10) == 90


@given(st.data())
def test_an_item_is_served_by_its_estimate(data: st.DataObject) -> None:
    """While nobody else comes, and up to one item of each share that is under way."""
    share: QueueShare[str] = QueueShare()
    paths = [[(key, weight), (request, 1.0)] for key, weight in (("a", 1.0), ("b", 8.0))
             for request in "xy"]  # fmt: skip
    for path, cost in data.draw(st.lists(st.tuples(st.sampled_from(paths), st.integers(1, 9)))):
        share.push(path, "other", cost)
    for _ in range(data.draw(st.integers(0, share.waiting))):
        share.pop()
    mine, cost = data.draw(st.tuples(st.sampled_from(paths), st.integers(1, 9)))
    told, all_ = share.until_served(mine, cost), share.cost + cost
    share.push(mine, "mine", cost)
    before = share.cost
    while share.pop() != "mine":
        pass
    assert before - share.cost <= told + 9 * 2 * (1 + 8) and told <= all_ + 1e-6


def test_queued_tokens_are_not_counted_as_running_too() -> None:
    clock = Clock()
    admission = Admission(10**6, 1, lambda: True, clock)

    async def story() -> None:
        go = asyncio.Event()

        async def work() -> None:
            async with admission.slot(Ticket("old", "a"), 100):
                await go.wait()

        with admission.admit(20, 2000, Ticket("old", "a")):
            for _ in range(10):  # 100 tokens a second
                async with admission.slot(Ticket("old", "a"), 100):
                    clock.now += 1.0
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(work())
                await asyncio.sleep(0)
                assert admission.queued_tokens == 900
                # Before it are 100 tokens that are begun, and of the 900 as much as is its own.
                with admission.admit(1, 100, Ticket("soon", "a"), seconds=5):
                    pass
                with pytest.raises(QueueFullError, match="after its deadline") as refused:
                    admission.admit(1, 100, Ticket("late", "a"), seconds=2.5).__enter__()
                assert refused.value.retry_after == 2  # 300 / 100 - 0.7 * 2.5, and rounded up
                go.set()

    asyncio.run(story())


def test_a_request_that_would_miss_its_deadline_is_refused_with_retry_after() -> None:
    clock, full = Clock(), True
    admission = Admission(10**6, 1, lambda: full, clock)

    async def story() -> None:
        with admission.admit(20, 2000, Ticket("old", "a")):
            for _ in range(10):  # 100 tokens a second, measured while the judge is full
                async with admission.slot(Ticket("old", "a"), 100):
                    clock.now += 1.0
            # 1,000 tokens are left, which take 10 s.
            with admission.admit(1, 100, Ticket("patient", "a"), seconds=20):
                pass
            with pytest.raises(QueueFullError, match="after its deadline") as refused:
                admission.admit(1, 100, Ticket("late", "a"), seconds=5).__enter__()
            assert refused.value.retry_after in (8, 9)  # (1000 + 100) / 100 - 0.7 * 5
            # What alone takes longer than its deadline is not refused for that.
            with admission.admit(1, 5000, Ticket("long", "a"), seconds=20):
                pass
            nonlocal full
            full = False
            admission.expected_wait(1)  # looks
            with admission.admit(1, 100, Ticket("idle", "a"), seconds=5):
                pass

    asyncio.run(story())


def test_a_judge_that_misses_every_deadline_gets_less_work() -> None:
    clock = Clock()
    admission = Admission(10**6, 8, clock=clock)

    async def story() -> None:
        async def work(seconds: float, cut_off: bool) -> None:
            async with admission.slot(Ticket("r"), 100):
                clock.now += seconds
                if cut_off:
                    raise asyncio.CancelledError

        for _ in range(30):
            with contextlib.suppress(asyncio.CancelledError):
                await work(30.0, cut_off=True)
        with admission.admit(1, 100, Ticket("probe"), seconds=30):  # nobody is there
            async with admission.slot(Ticket("probe"), 100):
                with pytest.raises(
                    QueueFullError, match="too long for the request's deadline"
                ) as refused:
                    admission.admit(1, 100, Ticket("second"), seconds=30).__enter__()
                assert refused.value.retry_after == 21
                with admission.admit(1, 100, Ticket("patient"), seconds=300):
                    pass
                with admission.admit(10, 100, Ticket("short ones"), seconds=30):
                    pass
        for _ in range(5):  # fast again, because there were few
            await work(2.0, cut_off=False)
        async with admission.slot(Ticket("probe"), 100):
            with admission.admit(1, 100, Ticket("second"), seconds=30):
                pass
        # Who hangs up early says nothing about the judge.
        before = admission._pace.least_seconds(100)
        with contextlib.suppress(asyncio.CancelledError):
            await work(0.1, cut_off=True)
        assert admission._pace.least_seconds(100) == before

    asyncio.run(story())


def test_training_goes_first_and_does_not_starve_evaluation() -> None:
    evaluation = [Ticket("e", priority="evaluation")] * 20
    got = order_of(evaluation + [Ticket("t")] * 90)
    late = [position for position, ticket in enumerate(got) if ticket.priority == "evaluation"]
    assert late[:3] == pytest.approx([1, 9, 18], abs=2) and len(late) == 20


def test_keys_share_equally_and_so_do_the_requests_of_a_key() -> None:
    many = [Ticket(f"a{i % 10}", "a") for i in range(50)]
    got = order_of(many + [Ticket("b", "b")] * 20)
    assert sum(ticket.key == "b" for ticket in got[:20]) in (9, 10, 11)
    alone = order_of([Ticket("large", "a")] * 50 + [Ticket("small", "a")])
    assert Ticket("small", "a") in alone[:3]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25),
    st.integers(1, 3),
)
def test_no_slot_is_lost_by_cancellation(lives: list[tuple[int, int]], places: int) -> None:
    async def story() -> None:
        admission = Admission(10**9, places)

        async def work(number: int, rest: int) -> None:
            async with admission.slot(Ticket(f"r{number % 5}", f"k{number % 2}"), 1 + number):
                assert admission.running <= places
                for _ in range(rest):
                    await asyncio.sleep(0)

        tasks = [asyncio.create_task(work(n, rest)) for n, (rest, _) in enumerate(lives)]
        for tick in range(5):
            for task, (_, gives_up) in zip(tasks, lives, strict=True):
                if gives_up == tick:
                    task.cancel()  # running or waiting, alone or with others
            await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        failed = [t.exception() for t in tasks if not t.cancelled() and t.exception()]
        assert not failed
        assert (admission.running, admission.queued_tokens) == (0, 0)

    asyncio.run(story())
