"""What lives as long as the service: the judge, the queue, and the crediting of a batch."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import capo_wire as wire
from capo_service import version
from capo_service.api import problems
from capo_service.api.auth import Access
from capo_service.api.parsing import Batch, Item
from capo_service.concurrency.background import Background
from capo_service.concurrency.gc_tuning import collect_when_idle
from capo_service.engine.base import UNLIMITED, Engine
from capo_service.observability.live import Live
from capo_service.observability.logs import rollouts as rollout_log
from capo_service.observability.loop_lag import LoopWatch
from capo_service.observability.metrics import Telemetry
from capo_service.pipeline.canary import CanaryWatch, load_canaries
from capo_service.pipeline.critiques import Creditor
from capo_service.pipeline.judge_template import load_template
from capo_service.pipeline.prepare import Preparer
from capo_service.pipeline.result_cache import make_cache
from capo_service.pipeline.rollout import Clock, Judging, critique_tokens, fingerprint, judge_digest
from capo_service.pipeline.served_tokenizers import Vocabulary, load_vocabularies
from capo_service.pipeline.verifier import Verifier
from capo_service.scheduling.admission import Admission, DrainingError, QueueFullError, Ticket
from capo_service.scheduling.api_keys import ApiKey
from capo_service.scheduling.quota import QuotaError, QuotaTooSmallError
from capo_service.settings import Settings

log = logging.getLogger(__name__)

_LEAST_RUNNING = 128  # rollouts, where setting max_running does not say
_AT_ONCE = 16  # rollouts of a request that are begun in one turn of the event loop
_LAST_WORDS_SECONDS = 2.0  # for errors to reach callers whose work ran out of time

Answer = wire.Credited | wire.Failed


class Runtime:
    """One service.

    Args:
        settings: of the service.
        engine: the judge.
        on_failure: called once if the judge cannot be loaded.
        on_ready: called once when it is.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        on_failure: Callable[[BaseException], None] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.telemetry = Telemetry()
        self._background = Background(lambda name: self.telemetry.task_failures.labels(name).inc())
        self.access = Access(settings, self.telemetry)
        self._creditor: Creditor | None = None
        self.admission = Admission(
            settings.max_queued_tokens, settings.max_running or _LEAST_RUNNING, self._judge_is_full
        )
        self.vocabularies: dict[str, Vocabulary] = {}
        self._verifier = Verifier(settings.verify_workers, settings.verify_timeout)
        self._template = load_template(settings.template, settings.model)
        self._results = make_cache(settings, self.telemetry.kept.labels("error").inc)
        self._judging: Judging | None = None  # until the judge is loaded
        self._canaries = (
            CanaryWatch(load_canaries(settings.canary_file), self.telemetry)
            if settings.canary_seconds
            else None
        )
        self.live = Live(settings.live_rollouts, self.telemetry, self.admission)
        self._on_failure = on_failure
        self._on_ready = on_ready
        self._phase = "starting"
        self.loaded = asyncio.Event()  # set once the judge serves requests
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
        self.telemetry.watch_count(
            "capo_engine_restarts",
            "Times that the engine was lost and started again",
            lambda: engine.restarts,
        )
        watch(
            "capo_accepted",
            "Rollouts accepted and not yet answered",
            lambda: self.admission.accepted,
        )
        watch("capo_running", "Rollouts being judged", lambda: self.admission.running)
        watch(
            "capo_queued_tokens",
            "Tokens of rollouts in the queue",
            lambda: self.admission.queued_tokens,
        )
        self._loop_watch = LoopWatch(self.telemetry.loop_blocked.observe)
        watch(
            "capo_loop_blocked_longest_seconds",
            "Longest event-loop lag caused by this process in the last one to two minutes",
            lambda: self._loop_watch.longest,
        )

    @property
    def tokenizers(self) -> list[str]:
        """Names of tokenizers that rollouts may name."""
        return sorted(self.vocabularies)

    @property
    def template_digest(self) -> str:
        """The first 16 digits of the SHA-256 of the judge's prompt template."""
        return hashlib.sha256(self._template.source.encode()).hexdigest()[:16]

    @property
    def judge_digest(self) -> str:
        """See `judging.judge_digest`."""
        return judge_digest(self.settings, self.engine, self._template.source)

    @property
    def accepted(self) -> int:
        """Rollouts accepted and not yet answered."""
        return self.admission.accepted

    @property
    def why_not_ready(self) -> wire.Problem | None:
        """Why a request would be refused now, or None."""
        if self.admission.draining:
            return problems.make("draining", "the service is stopping and takes no new work")
        if self._background.lost is not None:
            return self.is_broken()
        if self._judging is None:
            return problems.make("not-ready", f"the judge {self.engine.model}: {self._phase}")
        if not self.engine.ready:
            return self.engine_is_dead()
        return None

    def engine_is_dead(self) -> wire.Problem:
        """The problem of a judge that is lost, for good or for now."""
        lost = f"the engine of {self.engine.model} is dead"
        return problems.make(
            "engine-dead", lost if self.engine.dead else f"{lost}; it should come back"
        )

    @property
    def dead(self) -> bool:
        """Whether nothing but a new process brings the service back."""
        return self.engine.dead or self._background.lost is not None

    def is_broken(self) -> wire.Problem:
        """The problem of a service that is `dead`."""
        if self._background.lost is None:
            return self.engine_is_dead()
        return problems.make(
            "not-ready",
            f"the background task {self._background.lost} failed (the service's log has the "
            "trace); restart the service",
        )

    def unavailable(self, problem: wire.Problem) -> problems.ProblemError:
        """`why_not_ready` as an error, with a Retry-After."""
        wait = math.ceil(self.engine.ready_in)
        return problems.from_problem(problem, {"Retry-After": str(wait)} if wait else {})

    async def start(self, wait: bool = False) -> None:
        """Begin to load the judge; the service answers that it is not ready meanwhile.

        Args:
            wait: whether to return only when the judge is loaded; an error is then raised.
        """
        start = self._background.start
        # Without it a key that was taken back would go on being honoured.
        start("key-file", self.access.watch, vital=True)
        start("loop-watch", self._loop_watch.run)
        start("garbage", lambda: collect_when_idle(lambda: not self.accepted))
        start("live-view", self.live.run)
        if wait:
            await self._load()
        else:
            start("loading", self._load, vital=True)

    async def _load(self) -> None:
        try:
            await self._load_judge()
        except Exception as error:
            if self._on_failure is None:
                raise
            self._on_failure(error)
            return
        if self._on_ready is not None:
            self._on_ready()
        log.info("the judge %s is loaded", self.engine.model)
        self.loaded.set()

    async def _load_judge(self) -> None:
        self._enter("starting the engine (phase 1 of 2)")
        await asyncio.gather(self.engine.start(), self._verifier.start())
        self._enter("loading tokenizers (phase 2 of 2)")
        found = await asyncio.to_thread(
            load_vocabularies,
            self.settings.tokenizers,
            self.engine.model,
            self.engine.tokenizer_json,
        )
        self.vocabularies = found
        if self.settings.max_running is None:
            self.admission.max_running = places(self.engine.slots)
        self._creditor = Creditor(self.engine, self._verifier)
        secret = self.settings.nonce_secret
        preparer = Preparer(
            self.engine.encode,
            self.engine.context_length,
            self._template,
            {name: vocabulary.table for name, vocabulary in found.items()},
            secret.get_secret_value().encode() if secret else secrets.token_bytes(32),
            self.settings.policy(),
        )
        self._judging = Judging(
            fingerprint(self.settings, self.engine, self._template.source),
            partial(critique_tokens, self.settings),
            preparer,
            self._creditor,
            self.admission,
            self._results,
            self.telemetry,
        )
        if self._canaries is not None:
            canaries, judging = self._canaries, self._judging
            seconds = self.settings.canary_seconds
            self._background.start("canaries", lambda: canaries.run(judging, seconds))

    def _judge_is_full(self) -> bool:
        return self._creditor is not None and self._creditor.sampling >= self.engine.slots

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
        log.warning("drain timeout: %d rollouts aborted", self.accepted)
        self._out_of_time = True
        for task in self._answering:
            task.cancel()

    async def close(self) -> None:
        """Drain, then give everything back."""
        await self.drain()
        await self._background.close()
        await self.engine.close()
        await self._verifier.close()
        await self._results.close()

    async def credit(
        self, batch: Batch, clock: Clock, key: ApiKey
    ) -> AsyncGenerator[tuple[int, Answer], None]:
        """The answers of a batch with their positions, as they finish.

        Raises:
            ProblemError: the whole batch is refused: not ready, no room, or over the key's quota.
        """
        if (problem := self.why_not_ready) is not None:
            raise self.unavailable(problem)
        judging = self._judging
        assert judging is not None, "or it is not ready"  # noqa: S101
        count = len(batch.items)
        tokens = sum(judging.tokens(rollout, batch.options) for rollout in batch.rollouts)
        if tokens > self.admission.max_queued:
            raise problems.error(
                "too-large",
                f"the request has about {tokens} tokens for the judge; this service queues "
                f"{self.admission.max_queued} at most (setting max_queued_tokens)",
                "rollouts",
            )
        deadline = asyncio.get_running_loop().time() + batch.options.deadline_ms / 1000
        ticket = Ticket(secrets.token_hex(8), key.name, batch.options.priority)

        def expected_wait(rollouts: int) -> int:
            return self.admission.expected_wait(tokens * rollouts / count)

        try:
            quota = self.access.keys.quota(key).hold(key, count, expected_wait)
            seconds = batch.options.deadline_ms / 1000
            with quota, self.admission.admit(count, tokens, ticket, seconds):
                answers = self._answers(judging, batch, ticket, deadline, clock)
                async with aclosing(answers):
                    async for answer in answers:
                        yield answer
        except QuotaTooSmallError as error:
            raise problems.from_problem(problems.explain(error)) from None
        except (QueueFullError, QuotaError) as error:
            raise problems.from_problem(
                problems.explain(error), {"Retry-After": str(error.retry_after)}
            ) from None

    async def _answers(
        self, judging: Judging, batch: Batch, ticket: Ticket, deadline: float, clock: Clock
    ) -> AsyncGenerator[tuple[int, Answer], None]:
        """As they finish; on leaving, what is unfinished is cancelled."""
        tasks: dict[asyncio.Task[Answer], int] = {}
        done: asyncio.Queue[asyncio.Task[Answer]] = asyncio.Queue()
        try:
            for number, position in enumerate(_by_question(batch.items), 1):
                task = asyncio.create_task(
                    self._answer(judging, batch, position, ticket, deadline, clock)
                )
                task.add_done_callback(done.put_nowait)
                self._answering.add(task)
                tasks[task] = position
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # others may have the event loop between
            for _ in range(len(tasks)):
                task = await done.get()
                yield tasks[task], task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._answering -= tasks.keys()

    async def _answer(
        self, judging: Judging, batch: Batch, position: int, ticket: Ticket, deadline: float,
        clock: Clock,
    ) -> Answer:  # fmt: skip
        rollout, options, name = batch.items[position], batch.options, batch.ids[position]
        if isinstance(rollout, wire.Failed):
            self.telemetry.answered(rollout, ticket.key)
            return rollout
        try:
            async with asyncio.timeout_at(deadline):
                full, shared = await judging.result(rollout, options, ticket, clock)
            changes: dict[str, Any] = {"id": name, "cached": shared}
            if shared:
                changes["usage"] = wire.Usage()
            full = full.model_copy(update=changes)
            self.telemetry.answered(full, ticket.key)
            rollout_log.info("%s -> %s", rollout, full)
            self.live.note(rollout, options, full, ticket.key)
            return _select(full, options)
        except asyncio.CancelledError:
            if not self._out_of_time:
                raise
            failure: BaseException = DrainingError()
        except Exception as error:
            failure = error
        failed = wire.Failed(id=name, error=problems.explain(failure))
        self.telemetry.answered(failed, ticket.key)
        return failed


def places(slots: int) -> int:
    """Rollouts that are judged at once, so that one critique of each fills an engine's slots."""
    return _LEAST_RUNNING if slots >= UNLIMITED else max(_LEAST_RUNNING, slots)


def _by_question(items: Sequence[Item]) -> list[int]:
    """Positions, those of one question side by side: the judge reads it once while it is known."""
    first: dict[str, int] = {}
    for position, item in enumerate(items):
        first.setdefault(_asked(item), position)
    return sorted(range(len(items)), key=lambda position: first[_asked(items[position])])


def _asked(item: Item) -> str:
    if isinstance(item, wire.Failed):
        return ""
    return item.question if item.question is not None else repr(item.messages)


def _select(full: wire.Credited, options: wire.CreditOptions) -> wire.Credited:
    left_out = {"token_rewards", "critiques", "response"} - set(options.include)
    return full.model_copy(update=dict.fromkeys(left_out))
