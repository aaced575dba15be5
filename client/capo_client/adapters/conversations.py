"""The calls of an agent's model as one trajectory of chat messages, with a reward for each call.

Frameworks that record calls have a context (the messages that were sent) and a reply for each.
Most contexts extend the one before; those of sub-agents, or after compaction, do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from capo_client.adapters.samples import Sample, Scored
from capo_client.adapters.sequences import new_context
from capo_client.adapters.turns import chat_turn
from capo_wire.chat import POLICY, ChatTurn

# The role of replies in a context that the policy did not give in this trajectory.
_GIVEN = "context"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the policy's model: the messages that were sent, and the reply."""

    context: Sequence[Mapping[str, Any]]
    reply: Mapping[str, Any]


@dataclass(slots=True)
class Conversation:
    """The calls of a trajectory, in order.

    Attributes:
        prompt: the context of the first call.
        turns: the replies, and before each what is new in its context.
        places: the position of each call's reply in `turns`.
    """

    prompt: list[dict[str, Any]] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def sample(self, question: str | None = None, **given: Any) -> Sample:
        """The trajectory as a sample.

        Args:
            question: shown to the judge in place of the first context, if not None.
            given: `reference`, `outcome`, `tools`.
        """
        return Sample(self.prompt if question is None else question, turns=self.turns, **given)

    def rewards(self, scored: Scored) -> list[float]:
        """The mean reward of each call's reply, as `rewards_of_turns` has it."""
        rewards = rewards_of_turns(self.turns, scored)
        found = [rewards[place] for place in self.places]
        return [reward for reward in found if reward is not None]


def rewards_of_turns(turns: Sequence[Mapping[str, Any]], scored: Scored) -> list[float | None]:
    """The mean reward of each turn of a trajectory; None for those of others.

    A turn of the policy without text has the trajectory's mean reward.

    Raises:
        ValueError: there is no credit, or not one reward for each turn of the policy with text.
    """
    if scored.reward is None:
        raise ValueError(f"the trajectory has no credit: {scored.error}")
    own = [place for place, turn in enumerate(turns) if turn["role"] == POLICY]
    found: list[float | None] = [None] * len(turns)
    for place in own:
        found[place] = scored.reward
    if scored.turn_rewards is None:
        return found
    said = [
        place for place in own if ChatTurn.model_validate(chat_turn(turns[place])).text().strip()
    ]
    if len(said) != len(scored.turn_rewards):
        raise ValueError(
            f"the service returned rewards for {len(scored.turn_rewards)} turns, and {len(said)} "
            "turns of the policy have text: its version does not match this client's"
        )
    for place, reward in zip(said, scored.turn_rewards, strict=True):
        found[place] = reward
    return found


def join_calls(calls: Iterable[Call]) -> Conversation:
    """One trajectory of the calls, which are in the order in which they were made."""
    joined = Conversation()
    numbers: dict[str, int] = {}
    earlier: list[list[int]] = []

    def number(turn: Mapping[str, Any]) -> int:
        # Many templates and agents leave out the thoughts of earlier replies.
        said = {name: value for name, value in turn.items() if name != "reasoning_content"}
        return numbers.setdefault(json.dumps(said, sort_keys=True, default=str), len(numbers))

    for call in calls:
        context, reply = [chat_turn(each) for each in call.context], chat_turn(call.reply)
        keys = [number(turn) for turn in context]
        if earlier:
            new = new_context(keys, earlier)
            joined.turns += [_as_context(turn) for turn in context[len(context) - len(new) :]]
        else:
            joined.prompt = context
        earlier.append([*keys, number(reply)])
        joined.places.append(len(joined.turns))
        joined.turns.append(reply)
    return joined


def calls_of(messages: Sequence[Mapping[str, Any]], count: int) -> list[Call]:
    """The calls of an agent that kept one list of messages.

    Args:
        messages: all of them, with the replies.
        count: the number of calls; the last `count` messages of role `assistant` are the replies.

    Raises:
        ValueError: there are fewer replies.
    """
    places = [place for place, each in enumerate(messages) if each["role"] == POLICY]
    if not 0 < count <= len(places):
        raise ValueError(
            f"{count} calls, and {len(places)} messages of role assistant: give all messages, "
            "with the replies, and the id of each call"
        )
    return [Call(messages[:place], messages[place]) for place in places[-count:]]


def _as_context(turn: dict[str, Any]) -> dict[str, Any]:
    return turn | {"role": _GIVEN} if turn["role"] == POLICY else turn
