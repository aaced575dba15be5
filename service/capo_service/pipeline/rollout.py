"""One rollout from acceptance to result: caches, its turn, its prompt, its judge."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import capo_wire as wire
from capo_service import version
from capo_service.concurrency.cpu_thread import off_loop
from capo_service.engine.base import Engine
from capo_service.engine.local_models import weights_digest
from capo_service.observability.metrics import Telemetry
from capo_service.observability.tracing import tracer
from capo_service.pipeline.critiques import Creditor, Judged, NoValidCritiqueError
from capo_service.pipeline.prepare import Prepared, Preparer
from capo_service.pipeline.result_cache import ResultCache
from capo_service.scheduling.admission import Admission, Ticket
from capo_service.scheduling.single_flight import SingleFlight
from capo_service.settings import Settings

# A rollout below this size is prepared in 1 to 2 ms; longer work leaves the event loop.
_INLINE_CHARACTERS = 4_000
_INLINE_TOKENS = 1_200
_NOT_JUDGED_BY = {"include", "deadline_ms", "priority", "run"}  # options that change no result
_JUDGED_BY = {
    "engine_args",
    "chat_template_kwargs",
    "critique_style",
    "critique_format",
    "prefill",
    "suspicion",
    "symbolic_votes",
}
# Engine arguments that change speed and memory, and not what is sampled.
_CAPACITY = {
    "api_server_count",
    "block_size",
    "cpu_offload_gb",
    "data_parallel_size",
    "disable_log_stats",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "pipeline_parallel_size",
    "tensor_parallel_size",
}
_CHARACTERS_PER_TOKEN = 4  # roughly; before a rollout is prepared, nobody has counted


@dataclass(slots=True)
class Clock:
    """The longest that any rollout of a request waited, and was judged, in seconds."""

    queue: float = 0.0
    engine: float = 0.0


class Judging:
    """Judges accepted rollouts.

    Args:
        judged_as: all of this service that can change a result; see `fingerprint`.
        critique_tokens: how long a critique of a style is, about; None is the service's own.
        preparer: makes prompts.
        creditor: asks the judge.
        admission: gives turns.
        results: what was judged before.
        telemetry: counts.
    """

    def __init__(
        self,
        judged_as: str,
        critique_tokens: Callable[[wire.CritiqueStyle | None], int],
        preparer: Preparer,
        creditor: Creditor,
        admission: Admission,
        results: ResultCache,
        telemetry: Telemetry,
    ) -> None:
        self._judged_as = judged_as
        self._critique_tokens = critique_tokens
        self._preparer = preparer
        self._creditor = creditor
        self._admission = admission
        self._results = results
        self._telemetry = telemetry
        self._flights: SingleFlight[tuple[Judged, float]] = SingleFlight()

    async def result(
        self, rollout: wire.Rollout, options: wire.CreditOptions, ticket: Ticket, clock: Clock
    ) -> tuple[wire.Credited, bool]:
        """The whole result, and whether it was judged for somebody else, or before.

        Args:
            rollout: what is judged.
            options: how.
            ticket: in whose name it waits, and who pays.
            clock: told how long it took.

        Raises:
            InputError, NoValidCritiqueError, EngineDeadError, EngineBusyError.
        """
        async with self._creditor.cpu:
            digest = _digest(self._judged_as, rollout, options)
        kept = await self._results.get(digest)
        self._telemetry.kept.labels("miss" if kept is None else "hit").inc()
        if kept is not None:
            return kept, True

        async def work() -> tuple[Judged, float]:
            judged, queued = await self.judge(rollout, options, ticket)
            await self._results.put(digest, judged.result)
            return judged, queued

        (judged, queued), shared = await self._flights.run(digest, work)
        clock.queue = max(clock.queue, queued)
        clock.engine = max(clock.engine, judged.engine_seconds)
        return judged.result, shared

    def tokens(self, rollout: wire.Rollout, options: wire.CreditOptions) -> int:
        """About how many tokens the judge will read and write for a rollout, at least 1."""
        voting = options.voting
        written = self._critique_tokens(voting.critique_style) * voting.critiques
        return 1 + _characters(rollout) // _CHARACTERS_PER_TOKEN + written

    async def judge(
        self, rollout: wire.Rollout, options: wire.CreditOptions, ticket: Ticket
    ) -> tuple[Judged, float]:
        """The judged rollout, whatever was judged before, and how long it waited for its turn."""
        asked, telemetry = time.monotonic(), self._telemetry
        tokens = self.tokens(rollout, options)
        with tracer.start_as_current_span("rollout"):
            async with AsyncExitStack() as place:
                with tracer.start_as_current_span("queue"):
                    await place.enter_async_context(self._admission.turn(ticket, tokens))
                queued = time.monotonic() - asked
                prepared = await self._prepare(rollout, options)
                try:
                    judged = await self._creditor.judge(prepared, rollout, options)
                except NoValidCritiqueError as error:
                    telemetry.critiqued(error.critiques, error.usage, ticket.key)
                    raise
        telemetry.judged(judged.result, ticket.key)
        telemetry.queue_seconds.observe(queued)
        telemetry.judge_seconds.observe(judged.engine_seconds)
        return judged, queued

    async def _prepare(self, rollout: wire.Rollout, options: wire.CreditOptions) -> Prepared:
        tokens = len(rollout.response_token_ids or rollout.token_offsets or ())
        if _characters(rollout) <= _INLINE_CHARACTERS and tokens <= _INLINE_TOKENS:
            async with self._creditor.cpu:
                return self._preparer.prepare(rollout, options)
        return await off_loop(self._preparer.prepare, rollout, options)


def critique_tokens(settings: Settings, style: wire.CritiqueStyle | None = None) -> int:
    """How long a critique is, about, in tokens."""
    if settings.critique_format == "tag":
        return 512
    return {"verdict": 16, "brief": 64, "full": 320}[style or settings.critique_style]


def fingerprint(settings: Settings, engine: Engine, template: str) -> str:
    """All of a service that can change a result, as text."""
    chosen = settings.model_dump(mode="json", include=_JUDGED_BY | {"tokenizers"})
    told = [version(), engine.kind, engine.model, weights_digest(engine.model), template, chosen]
    return json.dumps(told, sort_keys=True)


def judge_digest(settings: Settings, engine: Engine, template: str) -> str:
    """Digest of the judge and all settings that can change what it says.

    A file that is judged in several runs keeps it, so it holds less than `fingerprint`: a run may
    go on after an update, or with fewer sequences on a smaller GPU.
    """
    chosen = settings.model_dump(mode="json", include=_JUDGED_BY)
    arguments = {k: v for k, v in chosen.pop("engine_args").items() if k not in _CAPACITY}
    weights = weights_digest(engine.model)
    told = [engine.kind, engine.model, weights, template, chosen, arguments]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _digest(judged_as: str, rollout: wire.Rollout, options: wire.CreditOptions) -> str:
    """Everything that can change the credit, and nothing else."""
    digest = hashlib.blake2b(judged_as.encode(), digest_size=32)
    digest.update(rollout.model_dump_json(exclude={"id"}).encode())
    digest.update(options.model_dump_json(exclude=_NOT_JUDGED_BY).encode())
    return digest.hexdigest()


def _characters(rollout: wire.Rollout) -> int:
    texts = rollout.response, rollout.question, rollout.reference
    return sum(len(text or "") for text in texts)
