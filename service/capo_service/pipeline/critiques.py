"""The pipeline of one rollout: critiques, vote, rewards. What comes before the judge: `prepare`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from opentelemetry import trace

import capo_wire as wire
from capo_service.core import critique_format, rewards, voting
from capo_service.core.critique_format import Verdict
from capo_service.core.suspicion import capped
from capo_service.engine.base import FINISHED_EARLY, Completion, Engine, EngineError
from capo_service.pipeline.prepare import Prepared

tracer = trace.get_tracer(__name__)

_ABORT_GRACE = 2.0  # seconds until a critique that was ended early is cancelled outright


class NoValidCritiqueError(Exception):
    """No critique of a rollout could be read, so nothing is known about its steps.

    `critiques` and `usage`: what was written, and what it cost.
    """

    def __init__(self, message: str, critiques: Sequence[wire.Critique], usage: wire.Usage) -> None:
        super().__init__(message)
        self.critiques = critiques
        self.usage = usage


class Verified(Protocol):
    """What a verifier answers."""

    @property
    def value(self) -> float: ...
    @property
    def reason(self) -> wire.Unchecked | None: ...
    @property
    def detail(self) -> str | None: ...


class Verifier(Protocol):
    """Compares a response's final answer with the reference's."""

    async def verify(self, response: str, reference: str) -> Verified: ...


@dataclass(frozen=True, slots=True)
class Ballot:
    """One critique and what was read in it."""

    completion: Completion
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """A credited rollout, with everything that any caller may ask to be sent back."""

    result: wire.Credited
    engine_seconds: float


class Creditor:
    """Judges prepared rollouts with one engine.

    `cpu` is held for work that takes a millisecond or so: what many rollouts are ready for at once
    is done one by one, and the event loop runs whatever else there is between.
    """

    def __init__(self, engine: Engine, verifier: Verifier) -> None:
        self._engine = engine
        self._verifier = verifier
        self.cpu = asyncio.Lock()
        self._numbers = itertools.count()
        self.sampling = 0  # critiques that the engine has, all rollouts together

    async def judge(
        self, prepared: Prepared, rollout: wire.Rollout, options: wire.CreditOptions
    ) -> Judged:
        """Critiques, vote and rewards of a prepared rollout, and its outcome.

        Raises:
            InputError: the reference holds no answer.
            NoValidCritiqueError: no critique could be read.
            EngineDeadError, EngineBusyError: as the engine raises them.
        """
        outcome_task = asyncio.create_task(self._outcome(prepared, rollout, options))
        ballots_task = asyncio.create_task(self._traced_ballots(prepared, options.voting))
        started = time.monotonic()
        try:
            outcome, ballots = await asyncio.gather(outcome_task, ballots_task)
        finally:
            await _cancel([outcome_task, ballots_task])
        seconds = time.monotonic() - started
        async with self.cpu:
            with tracer.start_as_current_span("vote"):
                return Judged(_credit(prepared, options, outcome, ballots), seconds)

    async def _outcome(
        self, prepared: Prepared, rollout: wire.Rollout, options: wire.CreditOptions
    ) -> wire.Outcome | None:
        if rollout.outcome is not None:
            return wire.Outcome(value=rollout.outcome, source="caller")
        if rollout.reference is None or options.reward.scheme == "process_only":
            return None
        verified = await self._verifier.verify(prepared.response, rollout.reference)
        return wire.Outcome(
            value=verified.value,
            source="math_verify",
            reason=verified.reason,
            detail=verified.detail,
        )

    async def _traced_ballots(self, prepared: Prepared, asked: wire.Voting) -> list[Ballot]:
        with tracer.start_as_current_span("engine", attributes={"critiques": asked.critiques}):
            return await self._ballots(prepared, asked)

    async def _ballots(self, prepared: Prepared, asked: wire.Voting) -> list[Ballot]:
        """Sample critiques, and end or spare those that the vote no longer needs.

        Where the engine has room, all start at once. Where it has none, they come in waves, so that
        what the vote will not need is not begun.
        """
        names = [f"critique-{next(self._numbers)}" for _ in range(asked.critiques)]
        tasks: list[asyncio.Task[Ballot]] = []
        pending: set[asyncio.Task[Ballot]] = set()
        try:
            while True:
                cast = [task.result().verdict.wrong for task in tasks if task not in pending]
                votes = _votes(prepared, cast)
                remaining = wanted = asked.critiques - len(cast)
                if asked.early_stop:
                    if votes.decided(asked.method, remaining):
                        await self._end_early(names, tasks, pending)
                        break
                    if self.sampling >= self._engine.slots:
                        wanted = votes.next_wave(asked.method, remaining)
                elif not remaining:
                    break
                for position in range(len(tasks), len(tasks) + wanted - len(pending)):
                    ballot = self._ballot(names[position], position, prepared)
                    tasks.append(asyncio.create_task(ballot))
                    pending.add(tasks[-1])
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # an engine that died is not waited for any longer
            return [task.result() for task in tasks if not task.cancelled()]
        finally:
            await _cancel(tasks)

    async def _ballot(self, name: str, position: int, prepared: Prepared) -> Ballot:
        sampling = prepared.sampling.of_critique(position)
        self.sampling += 1
        try:
            sampled = await self._engine.complete(name, prepared.prompt, sampling)
        except EngineError as error:
            return Ballot(error.completion or Completion("", "error"), Verdict(None, str(error)))
        finally:
            self.sampling -= 1
        # Under a grammar a judge is not free to think, whatever its chat template opened.
        thought = "" if sampling.grammar else prepared.prompt.thought
        begun = prepared.prompt.opening or thought
        completion = replace(sampled, text=begun + sampled.text)
        if completion.finish_reason == FINISHED_EARLY:
            return Ballot(completion, Verdict(None, "ended early: the vote was decided"))
        truncated = completion.finish_reason != "stop"
        found = critique_format.read(
            completion.text,
            len(prepared.spans),
            truncated=truncated,
            rollout=prepared.response,
        )
        return Ballot(completion, found)

    async def _end_early(
        self, names: Sequence[str], tasks: Sequence[asyncio.Task[Ballot]],
        pending: set[asyncio.Task[Ballot]],
    ) -> None:  # fmt: skip
        if not pending:
            return
        begun = [name for name, task in zip(names, tasks, strict=False) if task in pending]
        await asyncio.gather(*map(self._engine.abort, begun))
        _, late = await asyncio.wait(pending, timeout=_ABORT_GRACE)
        await _cancel(late)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _credit(
    prepared: Prepared,
    options: wire.CreditOptions,
    outcome: wire.Outcome | None,
    ballots: Sequence[Ballot],
) -> wire.Credited:
    """Vote and reward. Raises NoValidCritiqueError."""
    method, reward = options.voting.method, options.reward
    n_steps = len(prepared.spans)
    votes = _votes(prepared, [ballot.verdict.wrong for ballot in ballots])
    finished = [b for b in ballots if b.completion.finish_reason != FINISHED_EARLY]
    critiques = [_critique(ballot) for ballot in finished]
    usage = wire.Usage(
        prompt_tokens=sum(b.completion.prompt_tokens for b in ballots),
        cached_tokens=sum(b.completion.cached_tokens for b in ballots),
        completion_tokens=sum(b.completion.completion_tokens for b in ballots),
        critiques_run=len(finished),
    )
    if not votes.valid:
        reasons = "; ".join(sorted({str(ballot.verdict.reason) for ballot in ballots}))
        raise NoValidCritiqueError(
            f"none of {options.voting.critiques} critiques could be read: {reasons[:500]}",
            critiques,
            usage,
        )
    if prepared.false_steps:
        critiques.append(_symbolic(prepared))
    penalties = votes.penalties(method)
    for suspicion in prepared.suspicion:
        if suspicion.action == "wrong":
            blamed = suspicion.steps or range(n_steps)
            penalties = [1.0 if i in blamed else p for i, p in enumerate(penalties)]
    earned = rewards.step_rewards(
        reward.scheme,
        penalties,
        outcome.value if outcome else None,
        reward.w_whole,
        reward.w_process,
    )
    for suspicion in prepared.suspicion:
        if suspicion.action == "cap" and suspicion.steps:
            earned = capped(earned, suspicion.steps)
    spans = prepared.token_spans
    return wire.Credited(
        id="",
        outcome=outcome,
        steps=[
            wire.Step(
                index=i,
                span=span,
                token_span=spans[i] if spans is not None else None,
                wrong=penalties[i] >= 0.5,
                penalty=penalties[i],
                votes=_step_votes(votes, i, options.voting.critiques),
                reward=earned[i],
            )
            for i, span in enumerate(prepared.spans)
        ],
        token_rewards=rewards.token_rewards(earned, spans) if spans is not None else None,
        critiques=critiques,
        response=prepared.response,
        usage=usage,
        suspicion=[
            wire.Suspicion(
                reason=each.reason,
                detail=each.detail,
                action=each.action,
                steps=sorted(each.steps) if each.steps is not None else None,
            )
            for each in prepared.suspicion
        ],
    )


def _votes(prepared: Prepared, cast: Sequence[voting.Critique]) -> voting.Votes:
    counts, valid = voting.count_votes(cast, len(prepared.spans))
    return voting.Votes(counts, valid, prepared.false_steps, prepared.symbolic_votes)


def _step_votes(votes: voting.Votes, step: int, asked: int) -> wire.Votes:
    wrong, valid = votes.of(step)
    return wire.Votes(wrong=wrong, valid=valid, asked=asked)


def _symbolic(prepared: Prepared) -> wire.Critique:
    false = prepared.false_steps
    return wire.Critique(
        text="\n".join(f"Step {step}: {said}" for step, said in false.items()),
        wrong_steps=sorted(false),
        valid=True,
        finish_reason="stop",
        critic="symbolic",
        weight=prepared.symbolic_votes,
    )


def _critique(ballot: Ballot) -> wire.Critique:
    wrong = ballot.verdict.wrong
    return wire.Critique(
        text=ballot.completion.text,
        wrong_steps=None if wrong is None else sorted(wrong),
        valid=wrong is not None,
        finish_reason=ballot.completion.finish_reason,
        reason=ballot.verdict.reason,
    )
