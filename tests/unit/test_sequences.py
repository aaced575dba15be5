"""Several sequences of a trajectory, joined into one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_client.adapters.sequences import TokenSequence, join, new_context

IDS = st.lists(st.integers(0, 3), max_size=12)


@given(IDS, st.lists(st.integers(0, 1), max_size=12))
def test_one_sequence_is_itself(prompt: list[int], mask: list[int]) -> None:
    response = list(range(100, 100 + len(mask)))
    joined = join([TokenSequence(prompt, response, mask)])
    assert (joined.ids, joined.mask, joined.spans) == (response, mask, [(0, len(mask))])


@given(st.lists(st.tuples(IDS, st.lists(st.booleans(), max_size=8)), min_size=1, max_size=6))
def test_each_token_of_a_response_keeps_its_id_its_flag_and_its_reward(
    given_sequences: list[tuple[list[int], list[bool]]],
) -> None:
    sequences = [
        TokenSequence(prompt, [number * 10 + n for n in range(len(flags))], flags)
        for number, (prompt, flags) in enumerate(given_sequences)
    ]
    joined = join(sequences)
    assert len(joined.ids) == len(joined.mask)
    rewards = [float(position) for position in range(len(joined.ids))]
    for sequence, (start, end), own in zip(
        sequences, joined.spans, joined.split(rewards), strict=True
    ):
        assert joined.ids[start:end] == sequence.response
        assert joined.mask[start:end] == list(sequence.mask)
        assert own == rewards[start:end]
    inside = {n for start, end in joined.spans for n in range(start, end)}
    assert not any(flag for n, flag in enumerate(joined.mask) if n not in inside)


@given(IDS, IDS, IDS)
def test_a_context_that_goes_on_adds_only_what_is_new(
    prompt: list[int], response: list[int], more: list[int]
) -> None:
    assert new_context([*prompt, *response, *more], [[*prompt, *response]]) == more


@pytest.mark.parametrize(
    ("context", "earlier", "new"),
    [
        # Compaction: after the common system prompt there is a summary.
        ([1, 2, 50, 51], [[1, 2, 3, 4, 5]], [50, 51]),
        # A template without earlier thoughts: 7 is the thought, 8 9 the answer, 60 the tool's.
        ([1, 2, 8, 9, 60], [[1, 2, 7, 8, 9]], [60]),
        # The same, where the response has the tool's tokens too, as SkyRL's steps have.
        ([1, 2, 8, 9, 60], [[1, 2, 7, 8, 9, 60]], []),
        # The main agent goes on after a sub-agent.
        ([1, 2, 3, 4], [[1, 2, 3], [1, 90, 91]], [4]),
        ([5, 6], [[1, 2]], [5, 6]),
        ([], [[1, 2]], []),
    ],
)
def test_what_is_new_in_a_context(
    context: list[int], earlier: list[list[int]], new: list[int]
) -> None:
    assert new_context(context, earlier) == new


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 flags for 2 token ids"):
        join([TokenSequence([], [1, 2], [1])])
