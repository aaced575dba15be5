"""Known-answer probes (`canary` in settings and metrics), judged at intervals among the rollouts.

A degraded judge (wrong weights, a broken quantization, a context that is too short) still gives
valid verdicts; only its accuracy on solutions with known errors shows that it is degraded.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import capo_wire as wire
from capo_service.observability.metrics import Telemetry
from capo_service.pipeline.batch import CritiqueTokens, estimated_tokens
from capo_service.pipeline.rollout import RolloutJudge
from capo_service.scheduling.admission import Ticket
from capo_service.settings.fields import STORY_JUDGES
from capo_wire.jsonlines import read_lines
from capo_wire.labelled_steps import joined

log = logging.getLogger(__name__)

KEY = "canary"  # API key in metrics
_REMEMBERED = 10  # recent probes of each kind, for the accuracy
_OPTIONS = wire.CreditOptions(reward=wire.Reward(scheme="process_only"), priority="evaluation")


@dataclass(frozen=True, slots=True)
class Canary:
    """A solution and its wrong steps. `worth`: `good` if there are none, else `bad`.

    `observations`: of a trajectory, what a tool wrote after each step, or None.
    """

    question: str
    steps: list[str]
    wrong_steps: list[int]
    observations: list[str | None] | None = None

    @property
    def worth(self) -> str:
        return "bad" if self.wrong_steps else "good"

    def rollout(self) -> wire.Rollout:
        """The steps, separated by blank lines, with their spans."""
        if self.observations:
            text, steps, observed = joined(self.steps, self.observations)
            return wire.Rollout(
                question=self.question, response=text, steps=steps, observations=observed
            )
        parts = [step + "\n\n" for step in self.steps]
        ends = list(itertools.accumulate(map(len, parts)))
        spans = list(zip([0, *ends], ends, strict=False))
        return wire.Rollout(question=self.question, response="".join(parts), steps=spans)

    def is_judged_correctly(self, result: wire.Credited) -> bool:
        """Good: no step is flagged. Bad: at least one of the wrong steps is flagged."""
        called = {step.index for step in result.steps if step.wrong}
        return bool(called & set(self.wrong_steps)) if self.wrong_steps else not called


def load_canaries(path: Path | None, judge: str = "") -> list[Canary]:
    """The probes in a file, or the built-in ones of the kind that the judge can read.

    Raises:
        ValueError: a line is not a probe, with its number; or one kind is missing.
    """
    canaries = []
    for number, line in enumerate(_lines(path, judge), 1):
        if not line.strip():
            continue
        try:
            canary = Canary(**json.loads(line))
            canary.rollout()
            if not set(canary.wrong_steps) <= set(range(len(canary.steps))):
                raise ValueError("wrong_steps names a step that does not exist")
        except (TypeError, ValueError) as error:
            raise ValueError(f"canary_file {path}, line {number}: {error}") from error
        canaries.append(canary)
    if {canary.worth for canary in canaries} != {"good", "bad"}:
        raise ValueError(f"canary_file {path}: needs solutions without wrong steps and with some")
    return canaries


def _lines(path: Path | None, judge: str) -> Iterable[str]:
    if path is None:
        name = "story_canaries.jsonl" if judge in STORY_JUDGES else "canaries.jsonl"
        ours = resources.files("capo_service.pipeline") / name
        return ours.read_text("utf-8").split("\n")
    return read_lines(path)


class CanaryWatch:
    """Judges the probes at intervals.

    Args:
        canaries: the probes, of both kinds.
        telemetry: where they are counted.
    """

    def __init__(self, canaries: Sequence[Canary], telemetry: Telemetry) -> None:
        self._canaries = _alternating(canaries)
        self._telemetry = telemetry
        self._recent = {worth: deque[bool](maxlen=_REMEMBERED) for worth in ("good", "bad")}
        for worth in self._recent:
            telemetry.watch_canaries(worth, lambda worth=worth: self.accuracy(worth))  # type: ignore[misc]

    def accuracy(self, worth: str) -> float:
        """Share of recent probes of a kind that were judged correctly; NaN before the first."""
        recent = self._recent[worth]
        return sum(recent) / len(recent) if recent else float("nan")

    async def run(
        self, judge: RolloutJudge, critique_tokens: CritiqueTokens, seconds: float
    ) -> None:
        """Judge a probe every `seconds`, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.judge_next(judge, critique_tokens)

    async def judge_next(self, judge: RolloutJudge, critique_tokens: CritiqueTokens) -> None:
        """Judge one probe; if it cannot be judged, it is left out of the accuracy."""
        canary = next(self._canaries)
        rollout = canary.rollout()
        tokens = estimated_tokens(rollout, _OPTIONS, critique_tokens)
        ticket = Ticket(f"{KEY}-{secrets.token_hex(4)}", KEY, _OPTIONS.priority)
        try:
            async with asyncio.timeout(_OPTIONS.deadline_ms / 1000):
                judged = await judge.judge(rollout, _OPTIONS, ticket, tokens)
        except Exception as error:
            log.warning("a known-answer probe could not be judged: %s", error)
            self._telemetry.canaries.labels(canary.worth, "not").inc()
            return
        right = canary.is_judged_correctly(judged.result)
        self._recent[canary.worth].append(right)
        self._telemetry.canaries.labels(canary.worth, "rightly" if right else "wrongly").inc()


def _alternating(canaries: Sequence[Canary]) -> Iterator[Canary]:
    """Good and bad probes in turn, endlessly."""
    good = [canary for canary in canaries if canary.worth == "good"]
    bad = [canary for canary in canaries if canary.worth == "bad"]
    pairs = zip(itertools.cycle(good), itertools.cycle(bad), strict=False)
    return itertools.chain.from_iterable(pairs)
