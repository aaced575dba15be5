"""Which tokens are the policy's own, what is sent of them, and where their rewards go."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_client.adapters.turns import (
    BETWEEN_TURNS,
    content_text,
    decode_turns,
    policy_flags,
    policy_runs,
    policy_text,
    spread,
)
from capo_wire.token_offsets import decode_with_offsets
from kit import tokenizer

NAMES = ["gpt2", "llama2"]
# Characters of several bytes, which both tokenizers split over tokens, among others.
TEXT = st.text(st.sampled_from("ab 1.\n😀é漢𝄞\u0301"), max_size=12)


@st.composite
def trajectories(draw: st.DrawFn) -> tuple[Any, list[int], list[bool]]:
    made = tokenizer(draw(st.sampled_from(NAMES)))
    ids = made.encode(draw(TEXT), add_special_tokens=False).ids
    ids += draw(st.lists(st.integers(3, 300), max_size=4))  # single bytes, in any order
    mask = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    return made, ids, mask


@given(trajectories())
def test_each_token_of_the_policy_spells_what_it_spells_in_its_turn(
    case: tuple[Any, list[int], list[bool]],
) -> None:
    made, ids, mask = case
    text, spans = decode_turns(made, ids, mask)
    assert len(spans) == sum(mask)
    turns = [decode_with_offsets(made, run) for run in policy_runs(ids, mask)]
    assert text == BETWEEN_TURNS.join(turn for turn, _ in turns if turn)
    pieces = [text[start:end] for start, end in spans]
    assert pieces == [turn[start:end] for turn, places in turns for start, end in places]
    assert all(before <= after for before, after in pairwise(spans))
    assert all(0 <= start <= end <= len(text) for start, end in spans)


@given(trajectories())
def test_a_mask_of_ones_changes_nothing(case: tuple[Any, list[int], list[bool]]) -> None:
    made, ids, _ = case
    for mask in (None, [1] * len(ids)):
        assert decode_turns(made, ids, policy_flags(ids, mask)) == decode_with_offsets(made, ids)


@given(st.lists(st.booleans(), max_size=30), st.integers(-2, 2))
def test_rewards_go_back_to_where_their_tokens_were(mask: list[bool], more: int) -> None:
    rewards = [float(n) + 1 for n in range(max(sum(mask) + more, 0))]
    if len(rewards) != sum(mask):
        said = f"{len(rewards)} token rewards for {sum(mask)} token ids"
        with pytest.raises(ValueError, match=said):
            spread(rewards, mask)
        return
    found = spread(rewards, mask)
    assert len(found) == len(mask)
    assert [value for value, own in zip(found, mask, strict=True) if own] == rewards
    assert all(value == 0.0 for value, own in zip(found, mask, strict=True) if not own)


@pytest.mark.parametrize("name", NAMES)
def test_turns_do_not_run_together(name: str) -> None:
    made = tokenizer(name)
    one, tool, two = (
        made.encode(part, add_special_tokens=False).ids for part in ("12", "the tool says 42", "5")
    )
    ids = one + tool + two
    mask = [1] * len(one) + [0] * len(tool) + [1] * len(two)
    text, spans = decode_turns(made, ids, policy_flags(ids, mask))
    assert text.split(BETWEEN_TURNS) == ["12", "5"] and len(spans) == len(one + two)


@pytest.mark.parametrize(
    ("ids", "mask", "said"),
    [
        ([1, 2, 3], [1, 1], "2 flags for 3 token ids"),
        ([1], [1, 0], "2 flags for 1 token ids"),
        ([1, 2], [0, 0], "marks none of the 2 token ids"),
        ([], [0], "1 flags for 0 token ids"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(ids: list[int], mask: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        policy_flags(ids, mask)


def test_nothing_sampled_is_no_mistake() -> None:
    assert policy_flags([], []) == policy_flags([], None) == []


def test_the_policy_s_text_of_a_conversation() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": "12"},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "tool", "content": "42"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": [{"type": "text", "text": "5"}, {"type": "image"}]},
    ]
    assert policy_text(messages) == "12" + BETWEEN_TURNS + "5"
    assert policy_text(messages[1:4]) == ""
    assert content_text({"role": "user"}) == ""
