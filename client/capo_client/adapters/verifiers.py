"""verifiers (v1) with CAPO: a judge that a task calls, or that a task set configures.

    class MyTask(vf.Task[MyData]):
        @vf.reward
        async def credit(self, trace) -> float:
            return await CapoJudge().score(self.data, trace)

The whole trace is judged as one trajectory: sampled messages with their tool calls are the policy's
turns, and what tools and users answer are observations. The reward is the mean over the policy's
tokens. `trace.info` has the metrics ("capo"), and the rewards of each node's sampled tokens
("capo_token_rewards"), which `assign_advantages` turns into the `advantages` of the trace's nodes.
prime-rl trains on those; its algorithms are classes in its repository:

    class Capo(Algorithm):
        async def score_group(self, episodes):
            assign_advantages([trace for episode in episodes for trace in episode.traces])

A turn's tokens have one reward, unless a segmenter cuts turns (`"segment"` in CAPO_OPTIONS) and
the service knows the policy's tokenizer (`"tokenizer_name"`): then each token has that of its step.
Settings come from CAPO_URL and CAPO_OPTIONS (a JSON object with the arguments of `Scorer`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, Scored, default_scorer

require("verifiers", "verifiers", "0.4")

import verifiers.v1 as vf
from verifiers.v1.judge import judge_question, judge_response

from capo_client.adapters.conversations import Call, join_calls
from capo_client.adapters.sequences import join
from capo_client.adapters.traces import INFO, assign_advantages, messages, path_to, sequence

__all__ = ["CapoJudge", "CapoJudgeConfig", "assign_advantages"]


class CapoJudgeConfig(vf.JudgeConfig):
    """Fields of the task's data. `question_field` '': the conversation before the first reply."""

    question_field: str = ""
    reference_field: str = "answer"


class CapoJudge(vf.Judge[float, CapoJudgeConfig]):
    """Scores a trace; `trace.info["capo"]` has steps, wrong steps and agreement."""

    @property
    def reward_name(self) -> str:
        """The name of its reward."""
        return "capo"

    async def score(self, task: Any, trace: Any) -> float:
        """The trace's reward; see the module for what is stored in `trace.info`.

        Raises:
            ValueError: it has no credit; verifiers then counts the rollout as failed.
        """
        sampled = [number for number, node in enumerate(trace.nodes) if node.sampled]
        paths = [[trace.nodes[number] for number in path_to(trace, number)] for number in sampled]
        asked = None  # the messages before the first reply, with system prompt and tools
        if self.config.question_field or not paths or len(paths[0]) == 1:
            asked = judge_question(task, self.config.question_field)
        reference = getattr(task, self.config.reference_field, None)
        if not paths:
            text = judge_response(trace, "last_reply")
            sample = Sample(asked or "", text=text, reference=reference)
            return (await _scored(trace, sample)).reward or 0.0
        tools = [tool.model_dump(exclude_none=True) for tool in paths[0][0].tools]
        calls = join_calls(
            Call(messages(path[:-1]), path[-1].message.model_dump(exclude_none=True))
            for path in paths
        )
        sample = calls.sample(asked, reference=reference, tools=tools)
        if not default_scorer().by_name or not all(any(path[-1].mask) for path in paths):
            scored = await _scored(trace, sample)
            rewards = [
                [reward] * sum(path[-1].mask)
                for path, reward in zip(paths, calls.rewards(scored), strict=True)
            ]
        else:
            joined = join([sequence(path) for path in paths])
            as_ids = replace(sample, turns=None, ids=joined.ids, mask=joined.mask)
            scored = await _scored(trace, as_ids)
            rewards = [
                [reward for reward, own in zip(found, sequence(path).mask, strict=True) if own]
                for path, found in zip(paths, joined.split(scored.token_rewards or ()), strict=True)
            ]
        by_node = dict(zip(sampled, rewards, strict=True))
        trace.info[INFO] = [by_node.get(number, []) for number in range(len(trace.nodes))]
        return scored.reward or 0.0


async def _scored(trace: Any, sample: Sample) -> Scored:
    [scored] = await default_scorer().score([sample])
    if scored.reward is None:
        raise ValueError(f"the rollout has no credit: {scored.error}")
    trace.info["capo"] = scored.metrics()
    return scored
