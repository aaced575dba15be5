"""Calls of an agent's model as one trajectory, and a reward for each of them."""

from __future__ import annotations

from typing import Any

import pytest

import capo_wire as wire
from capo_client.adapters.conversations import Call, calls_of, join_calls, rewards_of_turns
from capo_client.adapters.responses_api import chat_turns, turns_of_items
from capo_client.adapters.samples import Scored
from capo_wire.aggregate import mean_reward, turn_rewards

USER = {"role": "user", "content": "q"}
CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
ASK = {"role": "assistant", "content": None, "tool_calls": CALLS}
TOLD = {"role": "tool", "tool_call_id": "1", "content": "42"}
DONE = {"role": "assistant", "content": "It is 42."}


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def roles(turns: list[dict[str, Any]]) -> list[str]:
    return [turn["role"] for turn in turns]


def test_contexts_that_grow_are_one_conversation() -> None:
    joined = join_calls([Call([USER], ASK), Call([USER, ASK, TOLD], DONE)])
    assert joined.prompt == [USER] and roles(joined.turns) == ["assistant", "tool", "assistant"]
    assert joined.places == [0, 2] and joined.turns[1]["content"] == "42"
    assert joined.turns[0]["tool_calls"] == [
        {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert join_calls(calls_of([USER, ASK, TOLD, DONE], 2)) == joined


def test_a_reply_that_comes_back_without_its_thought_is_not_shown_again() -> None:
    thought = ASK | {"reasoning_content": "Let me see."}
    joined = join_calls([Call([USER], thought), Call([USER, ASK, TOLD], DONE)])
    assert roles(joined.turns) == ["assistant", "tool", "assistant"]
    assert joined.turns[0]["reasoning_content"] == "Let me see."


def test_a_context_of_another_agent_is_shown_and_is_not_the_policy_s() -> None:
    other = [said("user", "help me"), said("assistant", "as an example")]
    joined = join_calls([Call([USER], ASK), Call(other, DONE), Call([USER, ASK, TOLD], DONE)])
    order = "assistant user context assistant tool assistant"
    assert roles(joined.turns) == order.split()
    assert joined.places == [0, 3, 5]


def test_the_last_replies_are_those_of_the_calls() -> None:
    example = [said("user", "1 + 1?"), said("assistant", "2")]
    messages = [*example, USER, ASK, TOLD, DONE]
    joined = join_calls(calls_of(messages, 2))
    assert roles(joined.prompt) == ["user", "assistant", "user"] and joined.places == [0, 2]
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"{count} calls, and 3 messages of role assistant"):
            calls_of(messages, count)


def test_each_turn_has_its_reward_and_a_turn_without_text_the_mean() -> None:
    turns = [ASK, TOLD, said("assistant", " "), said("user", "go on"), DONE]
    scored = Scored(None, 0.5, turn_rewards=[1.0, -1.0])
    assert rewards_of_turns(turns, scored) == [1.0, None, 0.5, None, -1.0]
    fallback = Scored(None, 2.0, source="outcome")
    assert rewards_of_turns(turns, fallback) == [2.0, None, 2.0, None, 2.0]
    with pytest.raises(ValueError, match="3 turns, and 2 turns of the policy have text"):
        rewards_of_turns(turns, Scored(None, 0.5, turn_rewards=[1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="no credit: why"):
        rewards_of_turns(turns, Scored(None, None, source="none", error="why"))


def step(turn: int, span: tuple[int, int], tokens: tuple[int, int] | None, reward: float) -> Any:
    return wire.Step.model_construct(span=span, token_span=tokens, reward=reward, turn=turn)


def test_a_turn_s_reward_is_the_mean_over_its_own_tokens() -> None:
    steps = [step(0, (0, 1), (0, 3), 2.0), step(0, (1, 9), (3, 4), 0.0)]
    steps.append(step(1, (9, 12), (6, 8), 1.0))
    result = wire.Credited.model_construct(steps=steps)
    assert turn_rewards(result) == [1.5, 1.0] and mean_reward(result) == 8 / 6
    bare = [each.model_copy(update={"token_span": None}) for each in steps]
    assert turn_rewards(wire.Credited.model_construct(steps=bare)) == [2 / 9, 1.0]


def item(kind: str, **given: Any) -> dict[str, Any]:
    return {"type": kind, "id": kind, "status": "completed", **given}


def test_items_of_the_responses_api_are_turns() -> None:
    parts = [{"type": "output_text", "text": "Done.", "annotations": []}]
    items = [
        item("reasoning", summary=[{"type": "summary_text", "text": "Hm."}]),
        item("function_call", name="f", arguments="{}", call_id="1", generation_token_ids=[1, 2]),
        item("function_call_output", call_id="1", output=[{"type": "input_text", "text": "42"}]),
        item("message", role="assistant", content=[]),
        item("message", role="assistant", content=parts),
        item("custom_tool_call", name="shell", input="ls", call_id="2"),
        item("custom_tool_call_output", call_id="2", output="a.txt"),
        item("mcp_call", name="g", arguments='{"x": 1}', output="7", server_label="s"),
        item("web_search_call", action={"query": "x"}, call_id="3", generation_token_ids=[1, 2]),
        item("message", role="assistant", content=[{"type": "refusal", "refusal": "No."}]),
        item("compaction", encrypted_content="zzz"),
        item("message", role="assistant", content=parts),
        item("reasoning", summary=[{"type": "summary_text", "text": "Then?"}]),
        item("function_call", name="f", arguments="{}", call_id="4"),
    ]
    turns, places = turns_of_items(items)
    assert places == [0, 0, 1, None, 2, 2, 3, 4, 6, 7, 8, 9, 10, 10]
    order = "assistant tool assistant tool assistant tool assistant assistant compaction"
    order += " assistant assistant"
    assert roles(turns) == order.split()
    wired = [wire.ChatTurn.model_validate(turn) for turn in wire_turns(turns)]
    assert wired[0].text() == (
        '<think>\nHm.\n</think>\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    )
    assert '{"name": "shell", "arguments": {"input": "ls"}}' in wired[2].text()
    assert [wired[n].text() for n in (1, 3, 5, 7)] == ["42", "a.txt", "7", "No."]
    assert '"name": "g", "arguments": {"x": 1}' in wired[4].text()
    assert '"web_search_call", "arguments": {"action": {"query": "x"}}' in wired[6].text()
    assert "zzz" not in str(turns) and "[1, 2]" not in str(turns)


def wire_turns(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from capo_client.adapters.turns import chat_turn

    return [chat_turn(turn) for turn in turns]


def test_chat_messages_among_items_are_kept() -> None:
    found = wire_turns(chat_turns([USER, ASK, TOLD, DONE]))
    assert found == wire_turns([USER, ASK, TOLD, DONE])
