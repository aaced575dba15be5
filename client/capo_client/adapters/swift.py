"""ms-swift with CAPO: `--external_plugins FILE.py --reward_funcs capo`.

    # FILE.py
    import capo_client.adapters.swift

The data's column `solution` (or `answer`) is the reference. ms-swift takes one number per rollout:
the mean over the characters of its last reply; earlier turns are the question. Settings come from
CAPO_URL and CAPO_OPTIONS (a JSON object with the arguments of `Scorer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, default_scorer

require("swift", "ms-swift", "4.6")

from swift.rewards import AsyncORM, orms


class CapoORM(AsyncORM):
    """An asynchronous reward function of ms-swift; rollouts of a call are sent concurrently."""

    async def __call__(
        self,
        completions: Sequence[str],
        messages: Sequence[Sequence[dict[str, Any]]] | None = None,
        solution: Sequence[Any] | None = None,
        answer: Sequence[Any] | None = None,
        rollout_infos: Sequence[dict[str, Any] | None] = (),
        **_: Any,
    ) -> list[float | None]:
        """One reward per rollout; None without credit, which ms-swift leaves out.

        Raises:
            ValueError: a column is missing, or a scheduler wrote into the policy's message.
        """
        references = solution if solution is not None else answer
        if messages is None or references is None:
            raise ValueError("capo needs the data's columns messages, and solution or answer")
        for turns, info in zip(messages, rollout_infos, strict=False):
            _check_turns(turns, info or {})
        samples = [
            Sample(_before_reply(turns), text=completion, reference=reference)
            for completion, turns, reference in zip(completions, messages, references, strict=True)
        ]
        return [scored.reward for scored in await default_scorer().score(samples)]


def _before_reply(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    question = list(turns)
    while question and question[-1]["role"] == "assistant":
        question.pop()
    return question


def _check_turns(turns: Sequence[dict[str, Any]], info: dict[str, Any]) -> None:
    """Refuse rollouts of schedulers that write into the policy's message.

    MathTipsScheduler is one. ms-swift passes reward functions no mask of the scheduler's text.
    """
    replies = sum(turn["role"] == "assistant" for turn in turns)
    if info.get("num_turns", 0) > replies:
        raise ValueError(
            f"a rollout has {info['num_turns']} turns and {replies} messages of the policy: its "
            "scheduler adds text to the policy's message, which cannot be told apart from the "
            "policy's; use a scheduler that adds messages"
        )


orms["capo"] = CapoORM
