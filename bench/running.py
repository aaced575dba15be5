"""What the parts of bench/service.py share: rollouts, sizes, and one service for each judge."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from engines import Rollouts, service

from capo_testbed import tasks
from capo_testbed.common import make_tasks, stream

K = 4
FULL_VOTE: dict[str, Any] = {"n": K, "early_stop": False}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: rounds of what is compared in turns.
        group: rollouts of one question in a round.
        callers: numbers of callers at once; the first is 1.
        alone: rollouts of a caller alone.
        recorded: rollouts whose critiques are recorded for early stopping, and judged live.
        stories: rollouts of the comparison with a script.
    """

    rounds: int = 3
    group: int = 8
    callers: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    alone: int = 40
    recorded: int = 16
    stories: int = 300


SIZES = Sizes()
QUICK = Sizes(rounds=1, group=2, callers=(1, 2), alone=4, recorded=4, stories=16)


class Source:
    """Rollouts: groups of one question each, never the same twice."""

    def __init__(self, data: Path | None = None) -> None:
        self._taken = 0
        self._lines = data.read_text().splitlines() if data else []

    def groups(self, count: int, size: int = 16, right: float = 0.0) -> Rollouts:
        """`right`: the share of stories that hold no error; others hold one or several."""
        found = []
        for _ in range(count):
            rng = stream(f"bench {self._taken}")
            [task] = make_tasks(rng, 1)
            for number in range(size):
                # No two alike, or one would be judged for both.
                slips = tasks.NO_SLIPS if number < right * size else tasks.ALL_KINDS
                text = f"Take {number}: {tasks.demonstrate(task, rng, slips)}"
                if self._lines:  # each line is a rollout of its own question
                    line = json.loads(self._lines[self._taken % len(self._lines)])
                    text = "\n\n".join(line["steps"])
                    found.append(rollout(line["input"], text))
                    self._taken += 1
                else:
                    found.append(rollout(task.question, text))
            self._taken += 1
        return found


def rollout(question: str, response: str) -> dict[str, Any]:
    return {"question": question, "response": response, "outcome": 1.0}


class Running:
    """Services that the parts share, each started when a part first needs it."""

    def __init__(self, made: Source, sizes: Sizes) -> None:
        self.made, self.sizes = made, sizes
        self._services: dict[str, tuple[str, contextlib.ExitStack]] = {}

    def service(self, judge: str) -> str:
        """The URL of the judge's service."""
        if judge not in self._services:
            stack = contextlib.ExitStack()
            url = stack.enter_context(service("verdict", judge))
            self._services[judge] = url, stack
        return self._services[judge][0]

    def close(self) -> None:
        for judge in list(self._services):
            self.stop(judge)

    def stop(self, judge: str) -> None:
        if judge in self._services:
            self._services.pop(judge)[1].close()

    @staticmethod
    def median(values: Sequence[float]) -> float:
        return float(median(values))
