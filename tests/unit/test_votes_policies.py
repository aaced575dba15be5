"""bench/cascade_policies.py counts what a policy of voting asks for, and who then decides."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from cascade_policies import Asked, Judged, Policy, Recorded, cascades, plain, unsure
from cascade_rows import compare

JUDGE, THOUGHTS = "judge@0", "judge@64"
STEPS = 3
COUNTS = {JUDGE: 16, THOUGHTS: 4}


def recorded(*votes: set[int], tokens: int = 4, prompt: int = 100) -> list[Recorded]:
    return [Recorded(frozenset(each), tokens, prompt) for each in votes]


def policy(name: str) -> Policy:
    [found] = [each for each in cascades(COUNTS, JUDGE, THOUGHTS) if each.name == name]
    return found


def asked(cheap: list[Recorded], thoughts: list[Recorded] | None = None) -> Asked:
    return Asked({JUDGE: cheap, THOUGHTS: thoughts or []}, STEPS)


def test_a_cascade_whose_votes_agree_asks_for_no_more() -> None:
    votes = asked(recorded({1}, {1}, *[set()] * 14))
    decides = policy("2 votes; k = 16 if they disagree").rule(votes)
    assert [each.wrong for each in decides] == [{1}, {1}]
    assert (votes.tokens, votes.escalated) == (8, False)


def test_a_cascade_whose_votes_disagree_is_the_larger_vote() -> None:
    cheap = recorded({1}, *[set[int]()] * 15)
    votes, full = asked(cheap), asked(cheap)
    decides = policy("2 votes; k = 16 if they disagree").rule(votes)
    [k16] = [each for each in plain(COUNTS) if each.name == f"{JUDGE}, k = 16"]
    alone = k16.rule(full)
    assert votes.escalated
    assert votes.count(decides).penalties("majority") == full.count(alone).penalties("majority")


def test_thoughts_decide_alone_unless_they_join() -> None:
    thought = recorded({2}, tokens=60)
    votes = asked(recorded({1}, set()), thought)
    assert policy(f"2 votes; 1 of {THOUGHTS} if they disagree").rule(votes) == thought
    assert (votes.tokens, votes.steps) == (68, 64)
    joined = policy(f"2 votes; 1 of {THOUGHTS} if they disagree, joined")
    assert len(joined.rule(asked(recorded({1}, set()), thought))) == 3


def test_a_prompt_is_read_once_by_each_judge() -> None:
    votes = Asked({JUDGE: recorded(set(), set()), "other@0": recorded(set())}, STEPS)
    votes.take(JUDGE, 0, 2)
    assert votes.prompt == 100 + 4  # 96 of its tokens fill blocks of the cache
    votes.take("other@0", 0, 1)
    assert votes.prompt == 100 + 4 + 100


@pytest.mark.parametrize(("probability", "escalated"), [(0.79, True), (0.81, False)])
def test_an_unlikely_verdict_gives_way_to_a_thought(probability: float, escalated: bool) -> None:
    likeliest = [Recorded(frozenset({1}), 4, 100, probability)]
    votes = asked(likeliest, recorded({2}, tokens=60))
    [rule] = [each.rule for each in unsure(JUDGE, THOUGHTS) if each.name.endswith("below 0.8")]
    assert rule(votes)[0].wrong == ({2} if escalated else {1})
    assert (votes.escalated, votes.tokens) == (escalated, 64 if escalated else 4)


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
def test_early_stopping_changes_tokens_but_no_vote(k: int) -> None:
    chance = random.Random(k)
    for _ in range(50):
        cheap = recorded(*({s for s in range(STEPS) if chance.random() < 0.3} for _ in range(16)))
        votes = asked(cheap)
        [rule] = [each.rule for each in plain(COUNTS) if each.name == f"{JUDGE}, k = {k}"]
        found = votes.count(rule(votes)).penalties("majority")
        assert found == votes.count(cheap[:k]).penalties("majority")
        assert votes.tokens <= 4 * k


def test_a_cascade_wins_only_where_fewer_votes_are_worse() -> None:
    wrong = [[True, False]] * 40
    sure = [Judged(recorded({0})[:1] * 16)] * 40
    policies = [*plain({JUDGE: 16}), *cascades(COUNTS, JUDGE)]
    rows = compare("judge", wrong, {JUDGE: sure}, policies, range(40))
    assert all(row.f1 == 1 for row in rows)
    assert not any(row.wins for row in rows)
    assert {row.against for row in rows} == {None, f"{JUDGE}, k = 1"}


def test_a_cascade_that_repairs_what_votes_disagree_on_wins() -> None:
    # Cheap votes are right where they agree; of two, one is wrong on every tenth rollout.
    wrong = [[True, False]] * 100
    cheap = [
        Judged(recorded(*[{0}, {0, 1}] * 8) if row % 10 == 0 else recorded(*[{0}] * 16))
        for row in range(100)
    ]
    thoughts = [Judged(recorded(*[{0}] * 4, tokens=64))] * 100
    sources = {JUDGE: cheap, THOUGHTS: thoughts}
    policies = [*plain(COUNTS), *cascades(COUNTS, JUDGE, THOUGHTS)]
    rows = {row.policy: row for row in compare("judge", wrong, sources, policies, range(100))}
    best = rows[f"2 votes; 1 of {THOUGHTS} if they disagree"]
    assert best.f1 == 1
    assert best.wins
    assert best.tokens == pytest.approx(8 + 6.4)
