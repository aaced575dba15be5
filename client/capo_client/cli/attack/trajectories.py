"""Hostile trajectories: the steps of a solution as turns of an agent, observations between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import capo_wire as wire
from capo_client.cli.attack.payloads.observations import HostileTurn

_ANSWER = "Noted."  # of the environment, after all other turns


def as_tokens(steps: Sequence[str], at: int, hostile: HostileTurn) -> tuple[str, list[int]]:
    """A trajectory as text, and for each character whether the policy wrote it.

    Args:
        steps: the policy's turns.
        at: the number of the turn before which the hostile one stands.
        hostile: the hostile turn.
    """
    parts: list[tuple[str, int]] = []
    for number, step in enumerate(steps):
        ends = hostile.ends if number == at - 1 else ""
        begins = hostile.begins if number == at else ""
        observed = hostile.observation if number == at else _ANSWER
        if number or number == at:
            parts.append((f"\n{observed}\n", 0))
        parts.append((begins + step + ends, 1))
    text = "".join(part for part, _ in parts)
    return text, [own for part, own in parts for _ in part]


def as_turns(steps: Sequence[str], at: int, hostile: HostileTurn) -> list[wire.ChatTurn]:
    """A trajectory as chat turns; as `as_tokens`."""
    made: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        if number == at and not hostile.earlier:
            made.append(observation(hostile))
        elif number:
            made.append({"role": "tool", "content": _ANSWER})
        own: dict[str, Any] = {"role": "assistant", "content": step}
        if number == max(at - 1, 0):
            own["reasoning_content"] = hostile.thought
            if hostile.call is not None:
                function = {"name": hostile.call, "arguments": hostile.arguments}
                own["tool_calls"] = [{"id": "c", "function": function}]
        made.append(own)
    return [wire.ChatTurn.model_validate(turn) for turn in made]


def observation(hostile: HostileTurn) -> dict[str, Any]:
    """The hostile turn itself, as a chat turn."""
    answers = "c" if hostile.call is not None else None
    return {
        "role": hostile.role or "tool",
        "content": hostile.observation,
        "name": hostile.name,
        "tool_call_id": answers,
    }
