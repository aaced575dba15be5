"""What is sent of a framework's trajectory: all tokens with their mask, or chat turns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import capo_wire as wire
from capo_client.adapters.queries import QueryBuilder
from capo_client.adapters.samples import Sample
from capo_client.adapters.turns import (
    chat_turn,
    check_count,
    content_text,
    policy_flags,
    policy_runs,
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
def test_all_tokens_are_sent_with_their_mask(case: tuple[Any, list[int], list[bool]]) -> None:
    made, ids, mask = case
    sample = Sample("q", ids=ids, mask=mask, outcome=1.0)
    query = QueryBuilder(made, None, True).build(0, sample)
    if not any(mask):
        assert query.body is None
        return
    text, spans = decode_with_offsets(made, ids)
    if query.body is None:  # the policy wrote blanks
        assert not "".join(
            text[a:b] for own, (a, b) in zip(mask, spans, strict=True) if own
        ).strip()
        return
    assert (query.body["response"], query.body["token_offsets"]) == (text, spans)
    assert query.body.get("response_mask", [1] * len(ids)) == [int(own) for own in mask]
    assert wire.Rollout.model_validate(query.body).token_count == len(ids)


def test_a_service_that_knows_the_tokenizer_gets_ids_and_mask() -> None:
    query = QueryBuilder(None, "gpt2", True).build(
        0, Sample("q", ids=[1, 2], mask=[0, 1], outcome=1)
    )
    assert query.body is not None
    assert query.body["response_token_ids"] == [1, 2] and query.body["response_mask"] == [0, 1]
    plain = QueryBuilder(None, "gpt2", True).build(0, Sample("q", ids=[1, 2], outcome=1))
    assert plain.body is not None and "response_mask" not in plain.body


def test_there_is_one_reward_per_token() -> None:
    check_count([0.0, 1.0], [False, True])
    with pytest.raises(ValueError, match="1 token rewards for 2 token ids"):
        check_count([1.0], [False, True])


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


def test_runs_are_the_policy_s_turns() -> None:
    assert policy_runs([1, 2, 3, 4], [True, False, True, True]) == [[1], [3, 4]]


CALL = {"id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "assistant", "content": None, "tool_calls": [CALL | {"type": "function"}]},
    {
        "role": "tool",
        "tool_call_id": "c1",
        "content": [{"type": "text", "text": "4"}, {"type": "image"}],
    },
    {"role": "assistant", "content": "5", "reasoning": "so", "refusal": None, "audio": None},
]


def test_messages_of_frameworks_are_chat_turns() -> None:
    turns = [chat_turn(message) for message in MESSAGES]
    assert turns == [
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "assistant", "content": "5", "reasoning_content": "so"},
    ]
    flat = chat_turn({"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]})
    assert flat["tool_calls"] == [{"function": {"name": "add", "arguments": {"a": 1}}}]
    for turn in (*turns, flat):
        wire.ChatTurn.model_validate(turn)
    assert content_text({"role": "user"}) == ""


def test_a_trajectory_of_messages_is_sent_as_turns() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    sample = Sample(MESSAGES[:1], turns=MESSAGES, tools=tools, outcome=1.0)
    query = QueryBuilder(None, None, True).build(0, sample)
    assert query.body is not None and query.flags is None
    rollout = wire.Rollout.model_validate(query.body)
    assert rollout.trajectory()[0].startswith("<tool_call>") and "add" in rollout.prompt_text()
    silent = Sample("q", turns=MESSAGES[1:2], outcome=1.0)
    assert QueryBuilder(None, None, True).build(0, silent).body is None
