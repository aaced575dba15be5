"""AReaL with CAPO: a reward for each interaction of an agent, or one for each rollout.

Agents call AReaL's OpenAI-compatible API, and a reward belongs to one call of it, an interaction.
Each gets the reward of its turn. An agent (a class with `run`, behind AReaL's proxy) returns them:

    class Agent:
        async def run(self, data, **settings):
            ...  # after each call: messages.append(REPLY.model_dump()); ids.append(response.id)
            return await areal.rewards_by_id(messages, ids, reference=data["answer"])

A workflow that has the client (`ArealOpenAI`) sets them: `await areal.credit(client, ...)`. A
turn's reward contains the outcome already, so that rewards of later turns must not be added to it:
set `turn_discount=0.0`. Export the interactions one by one (`export_style="individual"`), since
`concat` trains on the last one's reward alone.

Single turns: `reward_fn=capo_client.adapters.areal.reward_fn` of an RLVR workflow. AReaL calls it
in worker processes, for each rollout as soon as it is sampled, and takes one number: the mean of
the rewards over characters. AReaL's timeout for a reward is 15 s; a slower judge needs
`AsyncRewardWrapper(reward_fn, timeout_seconds=...)`.

Settings come from CAPO_URL and CAPO_OPTIONS (a JSON object with the arguments of `Scorer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from capo_client.adapters.conversations import Call, Conversation, calls_of, join_calls
from capo_client.adapters.responses_api import chat_turns
from capo_client.adapters.scoring import Sample, Scored, default_scorer
from capo_wire.answers import END_TOKENS, response_of


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    answer: Any = None,
    question: str | None = None,
    **_: Any,
) -> float:
    """The reward of one rollout; picklable, for AReaL's worker processes.

    Raises:
        RuntimeError: it has no credit; AReaL then retries.
    """
    sample = Sample(
        question or prompt,
        text=response_of(completions, "", END_TOKENS),
        reference=answer,
    )
    [scored] = default_scorer().score_now([sample])
    if scored.reward is None:
        raise RuntimeError(f"the rollout has no credit: {scored.error}")
    return scored.reward


async def rewards_by_id(
    messages: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
    *,
    reference: Any = None,
    outcome: float | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, float]:
    """The reward of each of an agent's calls, by the ids of their completions.

    Args:
        messages: the agent's messages, with the replies and the results of tools.
        ids: the id of each call's completion, in order: that of the last `len(ids)` replies.
        reference: the reference answer.
        outcome: r_v in [0, 1], in place of a reference.
        tools: the tools that the agent has.

    Raises:
        RuntimeError: the trajectory has no credit; AReaL then rejects it.
        ValueError: there are fewer replies than ids.
    """
    joined = join_calls(calls_of(messages, len(ids)))
    rewards, _ = await _scored(joined, reference=reference, outcome=outcome, tools=tools)
    return dict(zip(ids, rewards, strict=True))


async def credit(
    client: Any,
    *,
    reference: Any = None,
    outcome: float | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Scored:
    """Set the reward of each interaction of a client (`ArealOpenAI`, or an `InteractionCache`).

    All interactions are one trajectory, in the order in which they were made.

    Args:
        client: has the interactions of one trajectory.
        reference: the reference answer.
        outcome: r_v in [0, 1], in place of a reference.
        tools: the tools that the agent has.

    Returns:
        The credit of the trajectory, for its metrics.

    Raises:
        RuntimeError: the trajectory has no credit.
        ValueError: there are no complete interactions.
    """
    interactions = client.export_interactions(style="individual")
    if not interactions:
        raise ValueError("the client has no complete interactions: call its API first")
    joined = join_calls(_call(each) for each in interactions.values())
    rewards, scored = await _scored(joined, reference=reference, outcome=outcome, tools=tools)
    for interaction, reward in zip(interactions, rewards, strict=True):
        client.set_reward(interaction, reward)
    return scored


def _call(interaction: Any) -> Call:
    """A call by either API; the Responses API has a reply of several items."""
    replies = chat_turns(interaction.output_message_list)
    reply = replies[0] if replies else {"role": "assistant", "content": ""}
    return Call(chat_turns(interaction.messages), reply)


async def _scored(joined: Conversation, **given: Any) -> tuple[list[float], Scored]:
    [scored] = await default_scorer().score([joined.sample(**given)])
    if scored.reward is None:
        raise RuntimeError(f"the trajectory has no credit: {scored.error}")
    return joined.rewards(scored), scored
