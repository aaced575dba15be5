"""Sources of critiques: a judge in an engine, or the arithmetic checker."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Protocol

from capo_service.core.exact_votes import ExactVotes
from capo_service.core.verdicts.base import Verdict
from capo_service.engine.base import (
    FINISHED_EARLY,
    UNLIMITED,
    Completion,
    CritiqueFailedError,
    Engine,
    EngineStatus,
    JudgeLimits,
)
from capo_service.pipeline.prepared import Prepared

SYMBOLIC = "symbolic"
_ANALYSIS_CHARACTERS = {"verdict": 0, "brief": 200, "full": 1200}  # of the arithmetic checker
_NOT_IN_ANALYSIS = re.compile(r"[^ !#-\[\]-~]")  # not allowed in an analysis


@dataclass(frozen=True, slots=True)
class Ballot:
    """One critique and its parsed verdict, on a window of the rollout.

    `exact`: of exact votes, all votes on the window.
    """

    completion: Completion
    verdict: Verdict
    window: int = 0
    exact: ExactVotes | None = None


class Critic(Protocol):
    """A source of critiques for prepared rollouts. All methods are task-safe."""

    @property
    def slots(self) -> int:
        """Maximum number of concurrent critiques."""

    async def critique(self, request: str, prepared: Prepared, position: int) -> Ballot:
        """The critique at `position` of a rollout's k.

        Raises:
            EngineDeadError, EngineBusyError: as the engine raises them.
        """

    async def abort(self, request: str) -> None:
        """End a critique early: its `critique` returns at once with the text so far."""


class JudgeCritic:
    """An LLM judge in an engine.

    Args:
        engine: runs the judge.
        slots: critiques that the engine samples concurrently.
    """

    def __init__(self, engine: Engine, slots: int) -> None:
        self.slots = slots
        self.abort = engine.abort
        self._engine = engine

    async def critique(self, request: str, prepared: Prepared, position: int) -> Ballot:
        task = prepared.task
        if task is None:
            raise ValueError("the rollout was prepared for a critic that needs no prompt")
        sampling = task.sampling.of_critique(position)
        try:
            sampled = await self._engine.complete(request, task.prompt, sampling)
        except CritiqueFailedError as error:
            return Ballot(error.completion or Completion("", "error"), Verdict(None, str(error)))
        completion = replace(sampled, text=task.prompt.opening + sampled.text)
        if completion.finish_reason == FINISHED_EARLY:
            return Ballot(completion, Verdict(None, "ended early: the vote was decided"))
        verdict = task.shape.read(
            completion.text,
            truncated=completion.finish_reason != "stop",
            rollout=prepared.response,
        )
        return Ballot(completion, verdict)


class SymbolicCritic:
    """Calls a step wrong if it contains a false equation. All its critiques are equal.

    It is its own backend and needs no engine.
    """

    kind = SYMBOLIC
    model = SYMBOLIC
    slots = UNLIMITED

    def __init__(self) -> None:
        self._started = False

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(ready=self._started)

    async def start(self) -> JudgeLimits:
        self._started = True
        return JudgeLimits()

    async def close(self) -> None:
        self._started = False

    async def metrics(self) -> bytes:
        return b""

    async def critique(self, request: str, prepared: Prepared, position: int) -> Ballot:
        false = prepared.false_equations
        critique: dict[str, object] = {"incorrect_steps": list(false)}
        if most := _ANALYSIS_CHARACTERS[prepared.style]:
            sentences = ". ".join(f"Step {step}: {equation}" for step, equation in false.items())
            analysis = _NOT_IN_ANALYSIS.sub("?", sentences) or "No false equation."
            critique = {"analysis": analysis[:most], **critique}
        return Ballot(Completion(json.dumps(critique), "stop"), Verdict(frozenset(false)))

    async def abort(self, request: str) -> None:
        return None
