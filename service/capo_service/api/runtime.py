"""What lives as long as the service: the judge, the queue, and the crediting of a batch."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from capo_client import wire
from capo_service import version
from capo_service.admission import Admission, DrainingError, QueueFullError
from capo_service.api import problems
from capo_service.api.access import Access
from capo_service.api.parsing import Batch
from capo_service.cache import SingleFlight
from capo_service.credit import Creditor, Judged, NoValidCritiqueError
from capo_service.engine.base import Engine, EngineDeadError
from capo_service.judge_template import load_template
from capo_service.keys import Key, QuotaError, QuotaTooSmallError
from capo_service.logs import rollouts as rollout_log
from capo_service.outcome import Verifier
from capo_service.prepare import Prepared, Preparer
from capo_service.settings import Settings
from capo_service.telemetry import Telemetry
from capo_service.tracing import tracer
from capo_service.vocabularies import load_tables

log = logging.getLogger(__name__)

# A rollout below this size is prepared in 1 to 2 ms; longer work leaves the event loop.
_INLINE_CHARACTERS = 4_000
_INLINE_TOKENS = 1_200
_CHARACTERS_PER_TOKEN = 4  # roughly; before a rollout is prepared, nobody has counted
_LAST_WORDS_SECONDS = 2.0  # for errors to reach callers whose work ran out of time

Answer = wire.Credited | wire.Failed


@dataclass(slots=True)
class Clock:
    """The longest that any rollout of a request waited, and was judged, in seconds."""

    queue: float = 0.0
    engine: float = 0.0


class Runtime:
    """One service. `on_failure` is called once if the judge cannot be loaded."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.telemetry = Telemetry()
        self.access = Access(settings, self.telemetry)
        self.admission = Admission(settings.max_queued, settings.max_running)
        self.tokenizers: list[str] = []
        self._verifier = Verifier(settings.verify_workers, settings.verify_timeout)
        self._template = load_template(settings.template, settings.model)
        self._flights: SingleFlight[tuple[Judged, float]] = SingleFlight()
        self._creditor = Creditor(engine, self._verifier)
        self._preparer: Preparer | None = None  # until the judge is loaded
        self._on_failure = on_failure
        self._tasks: list[asyncio.Task[None]] = []
        self._phase = "starting"
        self._answering: set[asyncio.Task[Answer]] = set()
        self._out_of_time = False
        self.telemetry.about(
            version=version(), model=engine.model, engine=engine.kind,
            critique_style=settings.critique_style, critique_format=settings.critique_format,
        )  # fmt: skip
        watch = self.telemetry.watch
        watch(
            "capo_ready",
            "1 if the judge serves requests",
            lambda: float(self.why_not_ready is None),
        )
        watch("capo_accepted", "Rollouts accepted, not answered", lambda: self.admission.accepted)
        watch("capo_running", "Rollouts being judged", lambda: self.admission.running)

    @property
    def accepted(self) -> int:
        """Rollouts accepted and not yet answered."""
        return self.admission.accepted

    @property
    def why_not_ready(self) -> wire.Problem | None:
        """Why a request would be refused now, or None."""
        if self.admission.draining:
            return problems.make("draining", "the service is stopping and takes no new work")
        if self._preparer is None:
            return problems.make("not-ready", f"the judge {self.engine.model}: {self._phase}")
        if not self.engine.ready:
            return self.engine_is_dead()
        return None

    def engine_is_dead(self) -> wire.Problem:
        """The problem of a judge that is lost."""
        return problems.make("engine-dead", f"the engine of {self.engine.model} is dead")

    async def start(self, wait: bool = False) -> None:
        """Begin to load the judge; the service answers that it is not ready meanwhile.

        Args:
            wait: whether to return only when the judge is loaded; an error is then raised.
        """
        loading = asyncio.create_task(self._load())
        self._tasks = [loading, asyncio.create_task(self.access.watch())]
        if wait:
            await loading

    async def _load(self) -> None:
        try:
            self._enter("loading its weights into the engine (phase 1 of 2)")
            await asyncio.gather(self.engine.start(), self._verifier.start())
            self._enter("loading tokenizers (phase 2 of 2)")
            tables = await asyncio.to_thread(
                load_tables, self.settings.tokenizers, self.engine.model, self.engine.tokenizer_json
            )
        except Exception as error:
            if self._on_failure is None:
                raise
            self._on_failure(error)
            return
        self.tokenizers = sorted(tables)
        secret = self.settings.nonce_secret
        self._preparer = Preparer(
            self.engine.encode,
            self.engine.context_length,
            self._template,
            tables,
            secret.get_secret_value().encode() if secret else secrets.token_bytes(32),
            self.settings.policy(),
        )
        log.info("ready")

    def _enter(self, phase: str) -> None:
        self._phase = phase
        log.info("the judge %s: %s", self.engine.model, phase)

    async def drain(self) -> None:
        """Take no new work and let the accepted end; what is left after `drain_seconds` fails.

        The service goes on answering: that it is stopping, and what it has accepted.
        """
        if not await self.admission.drain(self.settings.drain_seconds):
            self.give_up()
            await self.admission.drain(_LAST_WORDS_SECONDS)

    def give_up(self) -> None:
        """Answer what is still unanswered with the error that the service is stopping."""
        log.warning("out of time: %d rollouts end unanswered", self.accepted)
        self._out_of_time = True
        for task in self._answering:
            task.cancel()

    async def close(self) -> None:
        """Drain, then give everything back."""
        await self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.engine.close()
        await self._verifier.close()

    async def credit(
        self, batch: Batch, clock: Clock, key: Key
    ) -> AsyncGenerator[tuple[int, Answer], None]:
        """The answers of a batch with their positions, as they finish.

        Raises:
            ProblemError: the whole batch is refused: not ready, no room, or over the key's quota.
        """
        if (problem := self.why_not_ready) is not None:
            raise problems.from_problem(problem)
        count = len(batch.items)
        if count > self.admission.max_queued:
            raise problems.error(
                "too-large",
                f"the request has {count} rollouts; this service queues {self.admission.max_queued}"
                " at most (setting max_queued)",
                "rollouts",
            )
        deadline = asyncio.get_running_loop().time() + batch.options.deadline_ms / 1000
        name = secrets.token_hex(8)
        try:
            quota = self.access.keys.quota(key).hold(key, count, self.admission.expected_wait)
            with quota, self.admission.admit(count):
                tasks = {
                    asyncio.create_task(
                        self._answer(batch, position, name, deadline, clock, key.name)
                    ): position
                    for position in range(count)
                }
                self._answering |= tasks.keys()
                try:
                    pending = set(tasks)
                    while pending:
                        done, pending = await asyncio.wait(
                            pending, return_when=asyncio.FIRST_COMPLETED
                        )
                        for task in done:
                            yield tasks[task], task.result()
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    self._answering -= tasks.keys()
        except QuotaTooSmallError as error:
            raise problems.from_problem(problems.explain(error)) from None
        except (QueueFullError, QuotaError) as error:
            raise problems.from_problem(
                problems.explain(error), {"Retry-After": str(error.retry_after)}
            ) from None

    async def _answer(
        self, batch: Batch, position: int, request: str, deadline: float, clock: Clock, key: str
    ) -> Answer:
        rollout, options, name = batch.items[position], batch.options, batch.ids[position]
        if isinstance(rollout, wire.Failed):
            self.telemetry.answered(rollout, key)
            return rollout
        try:
            async with asyncio.timeout_at(deadline):
                (judged, queued), shared = await self._flights.run(
                    _key(rollout, options), lambda: self._judge(rollout, options, request, key)
                )
            clock.queue = max(clock.queue, queued)
            clock.engine = max(clock.engine, judged.engine_seconds)
            full = judged.result.model_copy(update={"id": name, "cached": shared})
            if shared:
                full = full.model_copy(update={"usage": wire.Usage()})
            self.telemetry.answered(full, key)
            rollout_log.info("%s -> %s", rollout, full)
            return _select(full, options)
        except asyncio.CancelledError:
            if not self._out_of_time:
                raise
            failure: BaseException = DrainingError()
        except Exception as error:
            failure = error
        failed = wire.Failed(id=name, error=problems.explain(failure))
        self.telemetry.answered(failed, key)
        return failed

    async def _judge(
        self, rollout: wire.Rollout, options: wire.CreditOptions, request: str, key: str
    ) -> tuple[Judged, float]:
        """The judged rollout, and how many seconds it waited for its turn."""
        if self._preparer is None:
            raise EngineDeadError("the judge is not loaded")
        asked = time.monotonic()
        tokens = _characters(rollout) // _CHARACTERS_PER_TOKEN
        with tracer.start_as_current_span("rollout"):
            async with AsyncExitStack() as place:
                with self.telemetry.waiting(tokens), tracer.start_as_current_span("queue"):
                    await place.enter_async_context(self.admission.turn(request))
                queued = time.monotonic() - asked
                prepared = await self._prepare(self._preparer, rollout, options)
                try:
                    judged = await self._creditor.judge(prepared, rollout, options)
                except NoValidCritiqueError as error:
                    self.telemetry.critiqued(error.critiques, error.usage, key)
                    raise
        self.telemetry.judged(judged.result, key)
        self.telemetry.queue_seconds.observe(queued)
        self.telemetry.judge_seconds.observe(judged.engine_seconds)
        return judged, queued

    async def _prepare(
        self, preparer: Preparer, rollout: wire.Rollout, options: wire.CreditOptions
    ) -> Prepared:
        tokens = len(rollout.response_token_ids or rollout.token_offsets or ())
        if _characters(rollout) <= _INLINE_CHARACTERS and tokens <= _INLINE_TOKENS:
            return preparer.prepare(rollout, options)
        return await asyncio.to_thread(preparer.prepare, rollout, options)


def _characters(rollout: wire.Rollout) -> int:
    texts = rollout.response, rollout.question, rollout.reference
    return sum(len(text or "") for text in texts)


def _key(rollout: wire.Rollout, options: wire.CreditOptions) -> str:
    """Everything that can change the credit, and nothing else."""
    digest = hashlib.blake2b(rollout.model_dump_json(exclude={"id"}).encode(), digest_size=32)
    digest.update(options.model_dump_json(exclude={"include", "deadline_ms"}).encode())
    return digest.hexdigest()


def _select(full: wire.Credited, options: wire.CreditOptions) -> wire.Credited:
    left_out = {"token_rewards", "critiques", "response"} - set(options.include)
    return full.model_copy(update=dict.fromkeys(left_out))
