"""The balancer: a question stays with its replica, load stays even, the ill are left alone."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_client._request_state import split
from capo_client.balance import Balancer
from capo_client.retry import RetryPolicy


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def urls(count: int) -> list[str]:
    return [f"http://replica-{i}" for i in range(count)]


@pytest.mark.parametrize("given_urls", [[], ["http://a", "http://a"]])
def test_replicas_must_be_different_ones(given_urls: list[str]) -> None:
    with pytest.raises(ValueError, match="give one URL or several different ones"):
        Balancer(given_urls)


@given(st.text(), st.integers(1, 20))
def test_an_idle_fleet_keeps_a_question_at_one_replica(question: str, count: int) -> None:
    balancer = Balancer(urls(count))
    assert len({balancer.pick(question, 100).url for _ in range(5)}) == 1


def test_questions_spread_evenly_and_a_new_replica_takes_only_its_own() -> None:
    questions = [f"question {i}" for i in range(4000)]
    before = {q: Balancer(urls(8)).pick(q, 1).url for q in questions}
    counts = Counter(before.values())
    assert len(counts) == 8 and max(counts.values()) < 1.25 * 500
    after = {q: Balancer(urls(9)).pick(q, 1).url for q in questions}
    moved = {q for q in questions if before[q] != after[q]}
    assert {after[q] for q in moved} == {"http://replica-8"}
    assert len(moved) < 1.3 * 4000 / 9


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5000)), max_size=60), st.integers(1, 6))
def test_no_replica_gets_much_more_than_its_share(
    requests: list[tuple[int, int]], count: int
) -> None:
    balancer = Balancer(urls(count))
    with ExitStack() as stack:
        for question, tokens in requests:
            replica = balancer.pick(str(question), tokens)
            stack.enter_context(balancer.sending(replica, tokens))
        loads = [replica.outstanding for replica in balancer.replicas]
        largest = max((tokens for _, tokens in requests), default=0)
        assert sum(loads) == sum(tokens for _, tokens in requests)
        assert max(loads) <= max(1.25 * sum(loads) / count, 8000) + largest
    assert all(replica.outstanding == 0 for replica in balancer.replicas)


def test_a_failing_replica_rests_longer_each_time_and_comes_back_on_trial() -> None:
    clock = Clock()
    balancer = Balancer(urls(2), clock)
    ill = balancer.pick("q", 1)
    rests = []
    for _ in range(8):
        balancer.failed(ill, 0.0)
        assert balancer.pick("q", 1) is not ill
        rests.append(ill.rests_until - clock.now)
        clock.now = ill.rests_until
        assert balancer.pick("q", 1) is ill
    assert rests == [0.5, 1, 2, 4, 8, 16, 30, 30]
    with balancer.sending(ill, 1):
        assert balancer.pick("q", 1) is not ill, "one request at a time, until it has answered"
    balancer.answered(ill)
    with balancer.sending(ill, 1):
        assert balancer.pick("q", 1) is ill


def test_a_busy_replica_gives_its_question_to_the_least_busy() -> None:
    balancer = Balancer(urls(3))
    mine = balancer.pick("q", 1)
    other, idle = (replica for replica in balancer.replicas if replica is not mine)
    with balancer.sending(mine, 1_700), balancer.sending(other, 1_600):
        assert balancer.pick("q", 200) is mine
        assert balancer.pick("q", 900) is idle


def test_a_full_replica_is_left_alone_for_as_long_as_it_asks() -> None:
    clock = Clock()
    balancer = Balancer(urls(2), clock)
    full = balancer.pick("q", 1)
    balancer.failed(full, 12.0)
    balancer.answered(full)  # an earlier request of ours ended meanwhile
    clock.now = 11.0
    assert balancer.pick("q", 1) is not full
    clock.now = 12.0
    assert balancer.pick("q", 1) is full


def test_when_all_rest_the_most_rested_is_tried() -> None:
    clock = Clock()
    balancer = Balancer(urls(3), clock)
    for number, replica in enumerate(balancer.replicas):
        balancer.failed(replica, 10.0 - number)
    assert not balancer.any_usable
    assert balancer.pick("q", 1) is balancer.replicas[2]


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 9))
def test_chunks_hold_each_rollout_once_and_questions_together(
    questions: list[int], size: int
) -> None:
    rollouts = [{"question": str(q), "response": "a"} for q in questions]
    chunks = split(rollouts, {}, size, RetryPolicy(), 1e12)
    held = [list(chunk._pending) for chunk in chunks]
    assert sorted(p for positions in held for p in positions) == list(range(len(rollouts)))
    assert all(0 < len(positions) <= size for positions in held)
    for question in set(questions):
        mine = [positions for positions in held if any(questions[p] == question for p in positions)]
        assert len(mine) <= -(-questions.count(question) // size)
