"""ms-swift with CAPO: `--external_plugins FILE.py --reward_funcs capo`.

    # FILE.py
    import capo_client.adapters.swift

The data's column `solution` (or `answer`) is the reference. ms-swift takes one number a rollout:
the mean over its characters. Settings come from CAPO_URL and from CAPO_OPTIONS (a JSON object with
the arguments of `Scorer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capo_client.adapters.requirement import require
from capo_client.adapters.scoring import Sample, default_scorer

require("swift", "ms-swift", "4.6")

from swift.rewards import AsyncORM, orms


class CapoORM(AsyncORM):
    """An asynchronous reward function of ms-swift; all rollouts of a call are sent at once."""

    async def __call__(
        self,
        completions: Sequence[str],
        messages: Sequence[Sequence[dict[str, Any]]] | None = None,
        solution: Sequence[Any] | None = None,
        answer: Sequence[Any] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """One reward a rollout; None where it has no credit, which ms-swift leaves out."""
        references = solution if solution is not None else answer
        if messages is None or references is None:
            raise ValueError("capo needs the data's columns messages, and solution or answer")
        samples = [
            Sample(_before_reply(turns), text=completion, reference=str(reference))
            for completion, turns, reference in zip(completions, messages, references, strict=True)
        ]
        return [scored.reward for scored in await default_scorer().score(samples)]


def _before_reply(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = list(turns)
    while asked and asked[-1]["role"] == "assistant":
        asked.pop()
    return asked


orms["capo"] = CapoORM
