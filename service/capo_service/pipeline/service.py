"""The service's lifecycle: judge, queue, background tasks, readiness, graceful shutdown."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

import capo_wire as wire
from capo_service import version
from capo_service.concurrency.background import Background
from capo_service.concurrency.gc_tuning import collect_when_idle
from capo_service.engine.base import UNLIMITED, Engine
from capo_service.judges.profile import JudgeProfile
from capo_service.observability.live import LiveView
from capo_service.observability.loop_lag import LoopWatch
from capo_service.observability.metrics import Telemetry
from capo_service.pipeline.batch import BatchCreditor, Explain
from capo_service.pipeline.canary import CanaryWatch, load_canaries
from capo_service.pipeline.critics import SymbolicCritic
from capo_service.pipeline.errors import NotReadyError
from capo_service.pipeline.judge_digest import judge_digest
from capo_service.pipeline.judge_profile import judge_profile
from capo_service.pipeline.loading import LoadedService, ServiceParts, load
from capo_service.pipeline.prompt_view import PromptViewer
from capo_service.pipeline.result_cache import make_cache
from capo_service.pipeline.served_tokenizers import Vocabulary
from capo_service.pipeline.verifier import Verifier
from capo_service.scheduling.admission import Admission
from capo_service.scheduling.api_keys import KeyRing
from capo_service.scheduling.key_watch import KeyWatch
from capo_service.settings import Settings

log = logging.getLogger(__name__)

_LEAST_RUNNING = 128  # rollouts, where setting max_running does not say
_ERROR_SECONDS = 2.0  # for errors to reach clients whose rollouts were aborted


class Service:
    """One service, from start to close.

    Args:
        settings: the service's settings.
        backend: runs the judge.
        explain: turns an error into the problem that the caller gets.
        on_failure: called once if the judge cannot be loaded.
        on_ready: called once when the judge is loaded.

    Raises:
        ValueError: the template, the key file, the result cache or the probes cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        backend: Engine | SymbolicCritic,
        explain: Explain,
        on_failure: Callable[[BaseException], None] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.backend = backend
        self.telemetry = telemetry = Telemetry()
        self.keys = KeyRing(
            [key.get_secret_value() for key in settings.api_keys], settings.api_keys_file
        )
        self.key_watch = KeyWatch(self.keys, telemetry.key_reload)
        self.admission = Admission(
            settings.max_queued_tokens, settings.max_running or _LEAST_RUNNING, self._judge_is_full
        )
        self.live = LiveView(settings.live_rollouts, telemetry, self.admission)
        self._parts = ServiceParts(
            settings,
            backend,
            judge_profile(settings),
            Verifier(settings.verify_workers, settings.verify_timeout),
            make_cache(settings, telemetry.cache_lookups.labels("error").inc),
            self.admission,
            self.keys,
            self.live,
            telemetry,
            explain,
        )
        judge = settings.model if settings.engine == "vllm" else ""
        self._canaries = (
            CanaryWatch(load_canaries(settings.canary_file, judge), telemetry)
            if settings.canary_seconds
            else None
        )
        self._loop_watch = LoopWatch(telemetry.loop_blocked.observe)
        self._background = Background(lambda name: telemetry.task_failures.labels(name).inc())
        self._loaded: LoadedService | None = None  # until the judge is loaded
        self._phase = "starting"
        self._on_failure = on_failure
        self._on_ready = on_ready
        self.loaded = asyncio.Event()  # set once the judge serves requests
        telemetry.about(
            version=version(),
            model=backend.model,
            engine=backend.kind,
            critique_style=self.profile.style,
            critique_format=self.profile.format,
        )
        telemetry.watch_service(
            ready=lambda: self.why_not_ready is None,
            restarts=lambda: backend.status.restarts,
            accepted=lambda: self.admission.accepted,
            running=lambda: self.admission.running,
            queued_tokens=lambda: self.admission.queued_tokens,
            loop_lag=lambda: self._loop_watch.longest,
        )

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        """The tokenizers that rollouts may name, by name; none until the judge is loaded."""
        return self._loaded.vocabularies if self._loaded else {}

    @property
    def tokenizers(self) -> list[str]:
        """Names of tokenizers that rollouts may name."""
        return sorted(self.vocabularies)

    @property
    def context_length(self) -> int | None:
        """Maximum tokens of prompt and critique together; None if unknown."""
        return self._loaded.limits.context_length if self._loaded else None

    @property
    def engine_limits(self) -> wire.EngineLimits | None:
        """What the engine computes at once; None if unknown."""
        batch = self._loaded.limits.batch if self._loaded else None
        return wire.EngineLimits(slots=batch.slots, **asdict(batch)) if batch else None

    @property
    def profile(self) -> JudgeProfile:
        """How the judge is spoken to."""
        return self._parts.profile

    @property
    def template_digest(self) -> str:
        """The first 16 digits of the SHA-256 of the judge's prompt template."""
        return hashlib.sha256(self.profile.template.source.encode()).hexdigest()[:16]

    @property
    def judge_digest(self) -> str:
        """See `judge_digest.judge_digest`."""
        return judge_digest(self.settings, self.backend, self.profile.identity)

    @property
    def accepted(self) -> int:
        """Rollouts accepted and not yet answered."""
        return self.admission.accepted

    @property
    def why_not_ready(self) -> NotReadyError | None:
        """Why a request would be refused now, or None."""
        if self.admission.draining:
            return NotReadyError("draining", "the service is shutting down and accepts no new work")
        if self._background.lost is not None:
            return self.failure
        if self._loaded is None:
            return NotReadyError("not-ready", f"the judge {self.backend.model}: {self._phase}")
        return None if self.backend.status.ready else self.failure

    @property
    def dead(self) -> bool:
        """Whether the service has failed permanently; `failure` has the reason."""
        return self.backend.status.dead or self._background.lost is not None

    @property
    def failure(self) -> NotReadyError:
        """Why a service without its engine or a vital background task serves no requests."""
        if self._background.lost is not None:
            return NotReadyError(
                "not-ready",
                f"the background task {self._background.lost} failed (the traceback is in the "
                "service's log); restart the service",
            )
        status = self.backend.status
        lost = f"the engine of {self.backend.model} is dead"
        return NotReadyError(
            "engine-dead",
            lost if status.dead else f"{lost}; it is being restarted",
            None if status.dead else math.ceil(status.ready_in) or None,
        )

    @property
    def creditor(self) -> BatchCreditor:
        """The object that credits requests.

        Raises:
            NotReadyError: the service serves no requests at the moment.
        """
        return self._serving.creditor

    @property
    def prompts(self) -> PromptViewer:
        """The object that shows the judge's prompts.

        Raises:
            NotReadyError: the service serves no requests at the moment.
        """
        return self._serving.prompts

    @property
    def _serving(self) -> LoadedService:
        reason = self.why_not_ready
        if reason is not None or self._loaded is None:
            raise reason or NotReadyError("not-ready", "the judge is not loaded")
        return self._loaded

    async def start(self, wait: bool = False) -> None:
        """Begin to load the judge; until it is loaded, requests get 503.

        Args:
            wait: whether to return only when the judge is loaded, and raise an error if it fails.
        """
        start = self._background.start
        # Without it a key that was revoked would still be accepted.
        start("key-file", self.key_watch.run, vital=True)
        start("loop-watch", self._loop_watch.run)
        start("garbage", lambda: collect_when_idle(lambda: not self.accepted))
        start("live-view", self.live.run)
        if wait:
            await self._load()
        else:
            start("loading", self._load, vital=True)

    async def _load(self) -> None:
        try:
            loaded = await load(self._parts, self._enter)
        except Exception as error:
            if self._on_failure is None:
                raise
            self._on_failure(error)
            return
        if self.settings.max_running is None:
            self.admission.max_running = running_rollouts(loaded.limits.slots)
        self._loaded = loaded
        if self._canaries is not None:
            judging = partial(
                self._canaries.run,
                loaded.judge,
                loaded.critique_tokens,
                self.settings.canary_seconds,
            )
            self._background.start("canaries", judging)
        if self._on_ready is not None:
            self._on_ready()
        log.info("the judge %s is loaded", self.backend.model)
        self.loaded.set()

    def _judge_is_full(self) -> bool:
        return self._loaded is not None and self._loaded.sampler.is_full

    def _enter(self, phase: str) -> None:
        self._phase = phase
        log.info("the judge %s: %s", self.backend.model, phase)

    async def drain(self) -> None:
        """Refuse new work and finish accepted rollouts; after `drain_seconds` they are aborted.

        The service goes on responding: 503 to new requests, and results of accepted rollouts.
        """
        if not await self.admission.drain(self.settings.drain_seconds):
            self.fail_unfinished()
            await self.admission.drain(_ERROR_SECONDS)

    def fail_unfinished(self) -> None:
        """Abort the remaining rollouts, with the error that the service is shutting down."""
        log.warning("drain timeout: %d rollouts aborted", self.accepted)
        if self._loaded is not None:
            self._loaded.creditor.fail_unfinished()

    async def close(self) -> None:
        """Drain, then release all resources."""
        await self.drain()
        await self._background.close()
        await self.backend.close()
        await self._parts.verifier.close()
        await self._parts.results.close()


def running_rollouts(slots: int) -> int:
    """Concurrent rollouts: enough that one critique of each fills the engine's slots."""
    return _LEAST_RUNNING if slots >= UNLIMITED else max(_LEAST_RUNNING, slots)
