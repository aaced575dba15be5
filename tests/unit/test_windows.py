"""Windows of consecutive steps: as few as possible, even, and what stands before them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

import capo_wire as wire
from capo_service.core.observations import ShownStep
from capo_service.core.voting import JoinedVotes, VoteCount
from capo_service.core.windows import EarlierStep, even_windows, head, surroundings
from capo_service.pipeline.batch import estimated_tokens


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 300), st.integers(1, 40)
)
@example([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 4, 40)
@example([50, 1, 1], 10, 40)
def test_windows_are_consecutive_and_within_their_limits(
    lengths: list[int], size: int, most: int
) -> None:
    windows = even_windows(lengths, size, most)
    assert windows[0][0] == 0 and windows[-1][1] == len(lengths)
    assert all(a[1] == b[0] for a, b in pairwise(windows))
    for first, end in windows:
        assert 1 <= end - first <= most
        assert sum(lengths[first:end]) <= size or end - first == 1


def test_windows_are_few_and_even() -> None:
    def sizes(lengths: list[int], size: int, most: int) -> list[int]:
        return [end - first for first, end in even_windows(lengths, size, most)]

    assert sizes([1] * 10, 10, 40) == [10]
    assert sizes([1] * 10, 4, 40) == [3, 3, 4]
    assert sizes([1] * 600, 600, 400) == [300, 300]
    assert sizes([1] * 12, 5, 40) == [4, 4, 4]
    assert sizes([9, 1, 1, 1, 9], 12, 40) == [2, 3]
    assert sizes([1, 1, 1, 9], 9, 40) == [3, 1]
    assert sizes([100, 1, 1, 100], 10, 40) == [1, 2, 1]


def test_the_nearest_earlier_steps_are_shown() -> None:
    texts = [ShownStep(each) for each in ("zero ", "one\n\n two", "x" * 200, "three", "four")]
    found = surroundings(texts, (3, 4), 1000)
    assert found.earlier == [
        EarlierStep(0, "zero"),
        EarlierStep(1, "one two"),
        EarlierStep(2, "x" * 120 + " ..."),
    ]
    assert (found.left_out, found.continues) == (0, True)
    found = surroundings(texts, (4, 5), 9)
    assert found.earlier == [EarlierStep(3, "three")]
    assert (found.left_out, found.continues) == (3, False)
    assert surroundings(texts, (0, 2), 1000).earlier == []
    assert surroundings(texts, (4, 5), 0).left_out == 4


def test_the_head_of_a_step_is_short_whatever_is_in_it() -> None:
    assert head("\n" * 500 + "a" * 10_000).startswith("aaa")
    assert len(head("a" + " \n" * 10_000 + "b")) <= 125
    assert head("x" * 120) == "x" * 120


def votes(*critiques: set[int] | None, steps: int = 3) -> VoteCount:
    return VoteCount.of([None if c is None else frozenset(c) for c in critiques], steps)


def test_windows_are_voted_on_their_own_and_joined() -> None:
    joined = JoinedVotes([votes({1}, {1}, set()), votes({0}, None), votes(set(), steps=1)])
    assert joined.penalties("majority") == [0, 1, 0, 1, 0, 0, 0]
    assert joined.on_steps() == [(0, 3), (2, 3), (0, 3), (1, 1), (0, 1), (0, 1), (0, 1)]
    assert joined.silent == []
    assert JoinedVotes([votes({1}), votes(None, None)]).silent == [1]


def test_of_first_errors_only_the_first_window_with_one_counts() -> None:
    windows = [votes(set(), {0}, set()), votes({1}, {1}), votes({2})]
    assert JoinedVotes(windows).penalties("majority") == [0, 0, 0, 0, 1, 0, 0, 0, 1]
    joined = JoinedVotes(windows, first_error_only=True)
    assert joined.penalties("majority") == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert joined.penalties("average") == [1 / 3, 0, 0, 0, 1, 0, 0, 0, 0]


def test_admission_counts_the_windows_of_a_long_rollout() -> None:
    options = wire.CreditOptions()

    def size(characters: int, window_tokens: int | None) -> int:
        rollout = wire.Rollout(question="q" * 400, response="x" * characters)
        return estimated_tokens(rollout, options, lambda voting: 50, window_tokens)

    assert size(4000, None) == size(4000, 2000) == 1 + 1000 + 100 + 4 * 50
    # 100 tokens of question and 50 of a critique leave 850 for steps, and 0.8 of that: 15 windows.
    assert size(40_000, 1000) == 1 + 10_000 + 15 * (100 + 4 * 50)
    assert size(40_000, 100) > size(40_000, 1000)


def test_admission_counts_token_ids_and_at_least_one_window() -> None:
    options = wire.CreditOptions()
    ids = wire.Rollout(question="q", response_token_ids=[1] * 1000, outcome=1.0, tokenizer="t")
    assert estimated_tokens(ids, options, lambda voting: 50) == 1 + 1000 + 4 * 50
    question = wire.Rollout(question="q" * 4000, response="x", outcome=1.0)
    assert estimated_tokens(question, options, lambda voting: 50, 1000) == 1 + 1000 + 4 * 50
    assert estimated_tokens(question, options, lambda voting: 50, 1) > 1000
