"""rLLM with CAPO: a reward for each step of a trajectory, and an advantage for each of its tokens.

    class MyWorkflow(Workflow):
        async def run(self, task, uid, **kwargs):
            ...
            await rllm.credit(trajectory, reference=task["answer"])
            return Episode(...)

A trajectory's steps are judged as one trajectory: each reply is a turn, and what is new in the next
step's context is an observation. Each step gets its turn's mean reward (`step.reward`), and the
trajectory the mean over the policy's tokens. rLLM's own estimators take the trajectory's reward
alone. To train on the tokens' own advantages, wrap the hook that groups trajectories:

    from rllm.trainer.algorithms.transform import _default_traj_grouping_hook
    AgentTrainer(..., traj_grouping_hook=rllm.with_advantages(_default_traj_grouping_hook))

with `rllm.algorithm.use_precomputed_advantage=true` (and on verl `rllm.algorithm.use_rllm=true`).
It sets `step.advantage` to eq. 2 over the tokens of each group.

A turn's tokens have one reward, unless a segmenter cuts turns (`"segment"` in CAPO_OPTIONS) and ids
can be sent: with `"tokenizer_name"` in CAPO_OPTIONS, or `credit(..., tokenizer=...)`. Settings come
from CAPO_URL and CAPO_OPTIONS (a JSON object with the arguments of `Scorer`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from capo_client.adapters.advantages import AdvantageLevel, AdvantageScale, token_advantages
from capo_client.adapters.conversations import Call, join_calls
from capo_client.adapters.scoring import Sample, Scored, default_scorer
from capo_client.adapters.sequences import TokenSequence, join

_INFO = "capo_token_rewards"


async def credit(
    trajectory: Any,
    *,
    reference: Any = None,
    outcome: float | None = None,
    question: str | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
    tokenizer: Any = None,
) -> Scored:
    """Set the reward of a trajectory and of each of its steps.

    `step.info["capo_token_rewards"]` has one reward for each of a step's `response_ids`.

    Args:
        trajectory: rLLM's `Trajectory`, whose steps have `chat_completions`.
        reference: the reference answer.
        outcome: r_v in [0, 1], in place of a reference.
        question: shown to the judge in place of the first step's messages.
        tools: the tools that the agent has.
        tokenizer: the policy's, to send ids where the service does not have it.

    Returns:
        The credit of the trajectory, for the episode's metrics.

    Raises:
        RuntimeError: the trajectory has no credit; rLLM then retries it.
        ValueError: it has no steps, or a step has no reply.
    """
    steps = trajectory.steps
    if not steps:
        raise ValueError("the trajectory has no steps")
    scorer = default_scorer()
    if tokenizer is not None and scorer.tokenizer is None:
        scorer.tokenizer = tokenizer
    calls = join_calls(_call(step) for step in steps)
    sample = calls.sample(question, reference=reference, outcome=outcome, tools=tools)
    if (scorer.by_name or scorer.tokenizer is not None) and all(map(_has_ids, steps)):
        joined = join([_sequence(step) for step in steps])
        scored = await _score(replace(sample, turns=None, ids=joined.ids, mask=joined.mask))
        by_step = joined.split(scored.token_rewards or ())
        means = [sum(rewards) / len(rewards) for rewards in by_step]
    else:
        scored = await _score(sample)
        means = calls.rewards(scored)
        by_step = [[mean] * len(step.response_ids) for step, mean in zip(steps, means, strict=True)]
    for step, mean, rewards in zip(steps, means, by_step, strict=True):
        step.reward = mean
        step.info[_INFO] = rewards
    trajectory.reward = scored.reward
    return scored


async def _score(sample: Sample) -> Scored:
    [scored] = await default_scorer().score([sample])
    if scored.reward is None:
        raise RuntimeError(f"the trajectory has no credit: {scored.error}")
    return scored


def _call(step: Any) -> Call:
    messages = step.chat_completions
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError(
            "a step's chat_completions do not end with the policy's reply: give the step the "
            "messages that were sent, and the reply"
        )
    return Call(messages[:-1], messages[-1])


def _sequence(step: Any) -> TokenSequence:
    return TokenSequence(step.prompt_ids, step.response_ids, [1] * len(step.response_ids))


def _has_ids(step: Any) -> bool:
    """Whether a step has ids of text alone; prompts of some backends have images between them."""
    return bool(step.response_ids) and all(isinstance(each, int) for each in step.prompt_ids)


def with_advantages(
    grouping_hook: Callable[..., list[Any]],
    scale: AdvantageScale = "group",
    level: AdvantageLevel = "token",
) -> Callable[..., list[Any]]:
    """A hook that groups trajectories as `grouping_hook`, and sets the advantage of their steps."""

    def hook(*arguments: Any, **named: Any) -> list[Any]:
        groups = grouping_hook(*arguments, **named)
        for group in groups:
            assign_advantages(group, scale, level)
        return groups

    return hook


def assign_advantages(
    group: Any, scale: AdvantageScale = "group", level: AdvantageLevel = "token"
) -> None:
    """Set `step.advantage` in a `TrajectoryGroup`: a number for each of the step's `response_ids`.

    Eq. 2 over the tokens of the group's trajectories. A group in which no trajectory was credited
    by `credit` is left as it is.

    Args:
        group: rLLM's `TrajectoryGroup`.
        scale: the divisor, as in `token_advantages`.
        level: what counts once: a `token` or a `turn`.

    Raises:
        ValueError: some steps of the group have token rewards, and others have none.
    """
    import torch

    rows = [[(step, step.info.get(_INFO)) for step in each.steps] for each in group.trajectories]
    known = [rewards is not None for row in rows for _, rewards in row]
    if not any(known):
        return
    if not all(known):
        raise ValueError(
            f"{known.count(False)} of {len(known)} steps of group {group.group_id} have no token "
            "rewards: call credit() for every trajectory of a role, or for none"
        )
    # A zero that does not count separates the turns.
    values = [torch.tensor([x for _, own in row for x in (*own, 0.0)]) for row in rows]
    flags = [
        torch.tensor([x for _, own in row for x in (*[True] * len(own), False)]) for row in rows
    ]
    pad = torch.nn.utils.rnn.pad_sequence
    found = token_advantages(
        pad(values, batch_first=True), pad(flags, batch_first=True), [0] * len(rows), scale, level
    ).tolist()
    for row, advantages in zip(rows, found, strict=True):
        position = 0
        for step, own in row:
            step.advantage = advantages[position : position + len(own)]
            position += len(own) + 1
