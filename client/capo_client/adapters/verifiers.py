"""verifiers (v1) with CAPO: a judge that a task calls, or that a task set configures.

    class MyTask(vf.Task[MyData]):
        @vf.reward
        async def credit(self, trace) -> float:
            return await CapoJudge().score(self.data, trace)

The rollout is the trace's last reply, without the text of tools and users; its reward is the mean
over its characters. Settings come from CAPO_URL and CAPO_OPTIONS (a JSON object with the arguments
of `Scorer`).
"""

from __future__ import annotations

from typing import Any

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, default_scorer

require("verifiers", "verifiers", "0.4")

import verifiers.v1 as vf
from verifiers.v1.judge import judge_question, judge_response


class CapoJudgeConfig(vf.JudgeConfig):
    """Fields of the task's data. `question_field` '': the prompt is the question."""

    question_field: str = ""
    reference_field: str = "answer"


class CapoJudge(vf.Judge[float, CapoJudgeConfig]):
    """Scores a trace's last reply; `trace.info["capo"]` has steps, wrong steps and agreement."""

    @property
    def reward_name(self) -> str:
        """The name of its reward."""
        return "capo"

    async def score(self, task: Any, trace: Any) -> float:
        """The reply's reward.

        Raises:
            ValueError: it has no credit; verifiers then counts the rollout as failed.
        """
        sample = Sample(
            judge_question(task, self.config.question_field),
            text=judge_response(trace, "last_reply"),
            reference=getattr(task, self.config.reference_field, None),
        )
        [scored] = await default_scorer().score([sample])
        if scored.reward is None:
            raise ValueError(f"the rollout has no credit: {scored.error}")
        trace.info["capo"] = scored.metrics()
        return scored.reward
