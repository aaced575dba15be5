"""One rollout, from the queue to its credit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import capo_wire as wire
from capo_service.concurrency.cpu_thread import off_loop
from capo_service.concurrency.tasks import cancel
from capo_service.observability.metrics import Telemetry
from capo_service.observability.tracing import tracer
from capo_service.pipeline.assemble import credited
from capo_service.pipeline.critique_sampler import CritiqueSampler
from capo_service.pipeline.errors import NoValidCritiqueError
from capo_service.pipeline.prepare import Preparer
from capo_service.pipeline.prepared import Prepared
from capo_service.pipeline.types import Judged
from capo_service.scheduling.admission import Admission, Ticket

# A rollout below this size is prepared in 1 to 2 ms; longer work leaves the event loop.
_INLINE_CHARACTERS = 4_000
_INLINE_TOKENS = 1_200


class Verification(Protocol):
    """A verifier's result."""

    @property
    def value(self) -> float: ...
    @property
    def reason(self) -> wire.Unchecked | None: ...
    @property
    def detail(self) -> str | None: ...


class AnswerVerifier(Protocol):
    """Compares the final answer of a response with the reference's.

    Of a trajectory, `response` is the policy's last turn; the last turn with an answer counts.
    """

    async def verify(
        self, response: str, reference: str, earlier: Sequence[str] = ()
    ) -> Verification: ...


class RolloutJudge:
    """Judges rollouts, each once it has a slot.

    Args:
        preparer: steps, alignment, and the judge's prompt.
        sampler: critiques.
        verifier: the outcome, where the request has none.
        admission: the queue.
        cpu_gate: serialises CPU sections of about 1 ms; the event loop runs between them.
        telemetry: metrics.
    """

    def __init__(
        self,
        preparer: Preparer,
        sampler: CritiqueSampler,
        verifier: AnswerVerifier,
        admission: Admission,
        cpu_gate: asyncio.Lock,
        telemetry: Telemetry,
    ) -> None:
        self._preparer = preparer
        self._sampler = sampler
        self._verifier = verifier
        self._admission = admission
        self._cpu_gate = cpu_gate
        self._telemetry = telemetry

    async def judge(
        self, rollout: wire.Rollout, options: wire.CreditOptions, ticket: Ticket, tokens: int
    ) -> Judged:
        """Wait in the queue, then prepare, critique, verify, vote and reward.

        Args:
            rollout: the rollout.
            options: the request's options.
            ticket: its request, API key and priority, for scheduling.
            tokens: its estimated size, for scheduling.

        Raises:
            InputError: the rollout cannot be credited as sent.
            NoValidCritiqueError: no critique could be parsed.
            EngineDeadError, EngineBusyError: as the engine raises them.
        """
        arrived = time.monotonic()
        with tracer.start_as_current_span("rollout"):
            async with AsyncExitStack() as turn:
                with tracer.start_as_current_span("queue"):
                    await turn.enter_async_context(self._admission.slot(ticket, tokens))
                queue_seconds = time.monotonic() - arrived
                prepared = await self._prepare(rollout, options)
                started = time.monotonic()
                outcome_task = asyncio.create_task(self._outcome(prepared, rollout, options))
                sample = self._sampler.sample(prepared, options.voting)
                ballots_task = asyncio.create_task(sample)
                try:
                    outcome, ballots = await asyncio.gather(outcome_task, ballots_task)
                finally:
                    await cancel([outcome_task, ballots_task])
                engine_seconds = time.monotonic() - started
                async with self._cpu_gate:
                    with tracer.start_as_current_span("vote"):
                        try:
                            result = credited(prepared, options, outcome, ballots)
                        except NoValidCritiqueError as error:
                            self._telemetry.critiqued(
                                error.critiques, error.usage, ticket.key, prepared.thinks
                            )
                            raise
        judged = Judged(result, queue_seconds, engine_seconds)
        self._telemetry.judged(judged.result, ticket.key, prepared.thinks)
        self._telemetry.queue_seconds.observe(queue_seconds)
        self._telemetry.judge_seconds.observe(engine_seconds)
        return judged

    async def _prepare(self, rollout: wire.Rollout, options: wire.CreditOptions) -> Prepared:
        criteria = [criterion.text for criterion in rollout.criteria or ()]
        texts = rollout.trajectory()[0], rollout.prompt_text(), rollout.reference, *criteria
        characters = sum(len(text or "") for text in texts)
        if characters <= _INLINE_CHARACTERS and rollout.token_count <= _INLINE_TOKENS:
            async with self._cpu_gate:
                return self._preparer.prepare(rollout, options)
        return await off_loop(self._preparer.prepare, rollout, options)

    async def _outcome(
        self, prepared: Prepared, rollout: wire.Rollout, options: wire.CreditOptions
    ) -> wire.Outcome | None:
        if rollout.outcome is not None:
            return wire.Outcome(value=rollout.outcome, source="caller")
        if rollout.reference is None or options.reward.scheme == "process_only":
            return None
        *earlier, last = prepared.policy_texts
        verified = await self._verifier.verify(last, rollout.reference, earlier)
        return wire.Outcome(
            value=verified.value,
            source="math_verify",
            reason=verified.reason,
            detail=verified.detail,
        )
