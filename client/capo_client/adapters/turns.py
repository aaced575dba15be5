"""Trajectories of frameworks: masks of tokens, and chat messages.

Frameworks mark the policy's tokens with a mask of one flag per token: `response_mask` (verl),
`loss_mask` (slime, SkyRL), `tool_mask` (TRL). All tokens are sent with the mask; only marked ones
are judged and get rewards, each run of them as a turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any


def policy_flags(ids: Sequence[int], mask: Iterable[Any] | None) -> list[bool]:
    """Which of T tokens the policy sampled; all of them without a mask.

    Raises:
        ValueError: the mask's length differs from that of the ids, or it marks none of them.
    """
    if mask is None:
        return [True] * len(ids)
    flags = [bool(flag) for flag in mask]
    if len(flags) != len(ids):
        raise ValueError(f"the mask has {len(flags)} flags for {len(ids)} token ids")
    if ids and not any(flags):
        raise ValueError(f"the mask marks none of the {len(ids)} token ids as the policy's own")
    return flags


def policy_runs(ids: Sequence[int], flags: Sequence[bool]) -> list[list[int]]:
    """The policy's own ids, as one list for each turn."""
    runs = groupby(zip(flags, ids, strict=True), key=lambda pair: pair[0])
    return [[token for _, token in run] for own, run in runs if own]


def check_count(rewards: Sequence[float], flags: Sequence[bool]) -> None:
    """Check that there is one reward for each token.

    Raises:
        ValueError: there are more or fewer; the message has both numbers.
    """
    if len(rewards) != len(flags):
        raise ValueError(
            f"the service returned {len(rewards)} token rewards for {len(flags)} token ids: its "
            "version does not match this client's"
        )


_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")


def chat_turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of a framework as a chat turn of the wire: only the fields that it has.

    Content may be text, null, or a list of parts, of which only text is kept. A tool call may have
    `function`, or its `name` and `arguments` at the top.
    """
    turn = {name: message[name] for name in _FIELDS if message.get(name)}
    turn["role"] = message["role"]
    turn["content"] = content_text(message)
    if calls := turn.get("tool_calls"):
        turn["tool_calls"] = [_call(call) for call in calls]
    if not turn.get("reasoning_content") and isinstance(message.get("reasoning"), str):
        turn["reasoning_content"] = message["reasoning"]
    return turn


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or call
    arguments = function.get("arguments")
    return {
        **({"id": call["id"]} if call.get("id") else {}),
        "function": {"name": str(function["name"]), "arguments": arguments or ""},
    }


def content_text(message: Mapping[str, Any]) -> str:
    """The text of a chat message, whose content may be text or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    parts = (part for part in content if isinstance(part, Mapping))
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)
