"""Identical rollouts are judged once: from the result cache, or together with one in flight."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from contextlib import suppress
from dataclasses import replace
from functools import partial

import capo_wire as wire
from capo_service.observability.metrics import Telemetry
from capo_service.pipeline.result_cache import ResultCache
from capo_service.pipeline.rollout import RolloutJudge
from capo_service.pipeline.types import Judged
from capo_service.scheduling.admission import Ticket
from capo_service.scheduling.single_flight import SingleFlight
from capo_wire.token_offsets import token_lengths

_CHANGE_NO_RESULT = {"include", "deadline_ms", "priority", "run"}  # options
_TOKENS = {"token_offsets", "token_lengths"}


class DeduplicatedJudge:
    """A judge with a result cache that also joins identical rollouts in flight.

    Args:
        judge: judges rollouts that are new.
        results: the cache.
        fingerprint: of everything in this service that can change a result.
        cpu_gate: serialises CPU sections of about 1 ms.
        telemetry: counts cache hits.
    """

    def __init__(
        self,
        judge: RolloutJudge,
        results: ResultCache,
        fingerprint: str,
        cpu_gate: asyncio.Lock,
        telemetry: Telemetry,
    ) -> None:
        self._judge = judge
        self._results = results
        self._fingerprint = fingerprint
        self._cpu_gate = cpu_gate
        self._telemetry = telemetry
        self._flights: SingleFlight[Judged] = SingleFlight()

    async def judge(
        self, rollout: wire.Rollout, options: wire.CreditOptions, ticket: Ticket, tokens: int
    ) -> Judged:
        """As `RolloutJudge.judge`; `cached` where it was judged for another request."""
        async with self._cpu_gate:
            digest = self._digest(rollout, options)
        result = await self._results.get(digest)
        self._telemetry.cache_lookups.labels("miss" if result is None else "hit").inc()
        if result is not None:
            return Judged(result, cached=True)

        work = partial(self._judge_and_keep, digest, rollout, options, ticket, tokens)
        with self._flights.join(digest, work) as flight:
            return replace(await asyncio.shield(flight.task), cached=flight.shared)

    async def _judge_and_keep(
        self,
        digest: str,
        rollout: wire.Rollout,
        options: wire.CreditOptions,
        ticket: Ticket,
        tokens: int,
    ) -> Judged:
        judged = await self._judge.judge(rollout, options, ticket, tokens)
        await self._results.put(digest, judged.result)
        return judged

    def _digest(self, rollout: wire.Rollout, options: wire.CreditOptions) -> str:
        """Digest of everything that can change the credit, and of nothing else."""
        digest = hashlib.blake2b(self._fingerprint.encode(), digest_size=32)
        digest.update(rollout.model_dump_json(exclude={"id", "response_mask"} | _TOKENS).encode())
        digest.update(bytes(rollout.response_mask or ()))
        digest.update(_tokens(rollout))
        digest.update(options.model_dump_json(exclude=_CHANGE_NO_RESULT).encode())
        return digest.hexdigest()


def _tokens(rollout: wire.Rollout) -> bytes:
    """The tokens of a rollout, alike for offsets and lengths that mean the same.

    A client sends offsets to a service that it does not know yet, and lengths from then on.
    """
    lengths, offsets = rollout.token_lengths, rollout.token_offsets
    if offsets is not None:
        lengths = token_lengths(offsets, len(rollout.response or ""))
    if lengths is not None:
        with suppress(OverflowError):  # lengths that are refused later
            return b"lengths" + array("q", lengths).tobytes()
    return rollout.model_dump_json(include=_TOKENS).encode()
