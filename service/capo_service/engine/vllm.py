"""The judge in this process tree: vLLM's AsyncLLM.

vLLM schedules everything; the service adds no batching. Every critique is a request of its own,
so that each can be aborted alone; automatic prefix caching makes the k critiques of a rollout share
its prompt, and the rollouts of a question its first part.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from capo_service.engine import embedded
from capo_service.engine.base import (
    Completion,
    Constraint,
    CritiqueSampling,
    EncodedPrompt,
    EngineDeadError,
    EngineStatus,
    JudgeLimits,
    JudgePrompt,
    TokenPrompt,
    engine_metrics,
)
from capo_service.engine.local_models import local_model
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.ranks import RankRouter
from capo_service.engine.supervisor import Supervisor
from capo_service.engine.vllm_config import (
    CPU_WORKER as CPU_WORKER,
)
from capo_service.engine.vllm_config import (
    batch_limits,
    default_arguments,
    describe_limits,
    engine_config,
    top_logprobs,
)
from capo_service.engine.vllm_log import StartUpFilter
from capo_service.engine.vllm_runner import VllmRunner

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs

log = logging.getLogger(__name__)

# On so few cores vLLM would leave one unused; all of them, without binding threads to cores, are
# faster (1.25 times on 2).
_FEW_CORES = 4


class VllmEngine:
    """Serves a hub name, a folder, `embedded`, or one of the testbed's judges.

    Args:
        model: the judge.
        engine_args: any field of vLLM's `AsyncEngineArgs`, passed through.
        template_kwargs: extra variables for the judge's chat template.
        hang_seconds: seconds without a response after which an engine that uses CPU time counts
            as hanging.
        thinking_markers: opening and closing text of the judge's thoughts; None: found.
        warm_up: a constraint of real critiques, compiled before the engine is ready.
    """

    kind = "vllm"

    def __init__(
        self,
        model: str,
        engine_args: Mapping[str, Any] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        hang_seconds: float = 60.0,
        thinking_markers: Sequence[str] | None = None,
        warm_up: Constraint | None = None,
    ) -> None:
        self.model = embedded.TOKENIZER_NAME if model == embedded.NAME else model
        self._source = model
        self._engine_args = dict(engine_args or {})
        self._template_kwargs = dict(template_kwargs or {})
        self._thinking_markers = thinking_markers
        self._warm_up = warm_up
        self._arguments: AsyncEngineArgs | None = None
        self._encoder: PromptEncoder | None = None
        self._supervisor: Supervisor[VllmRunner] = Supervisor(self._load, hang_seconds)
        self._limits = JudgeLimits()
        self._router = RankRouter(ranks=1, slots=1)

    @property
    def status(self) -> EngineStatus:
        supervisor = self._supervisor
        return EngineStatus(
            ready=supervisor.runner is not None,
            dead=supervisor.dead,
            ready_in=supervisor.ready_in,
            restarts=supervisor.restarts,
        )

    async def start(self) -> JudgeLimits:
        path = await asyncio.to_thread(self._prepare)
        log.info("loading %s with vLLM", self.model)
        await self._supervisor.start()
        log.info("%s from %s is ready", self.model, path)
        return self._limits

    async def close(self) -> None:
        await self._supervisor.close()

    async def metrics(self) -> bytes:
        from prometheus_client import REGISTRY, generate_latest  # where vLLM registers its own

        return engine_metrics(generate_latest(REGISTRY))

    def encode(self, prompt: JudgePrompt) -> TokenPrompt:
        assert self._encoder is not None, "start() comes first"  # noqa: S101
        return self._encoder.encode(prompt)

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        assert isinstance(prompt, TokenPrompt), "encoded by another engine"  # noqa: S101
        runner = self._supervisor.runner
        if runner is None:
            raise EngineDeadError("the judge's engine is restarting")
        with self._router.route(prompt.group) as rank:
            return await runner.complete(request, prompt, sampling, rank)

    async def abort(self, request: str) -> None:
        if (runner := self._supervisor.runner) is not None:
            await runner.abort(request)

    def _prepare(self) -> str:
        """Resolve the judge and its arguments; returns where its files are."""
        try:
            from vllm import AsyncEngineArgs
            from vllm.platforms import current_platform
        except ImportError as error:
            raise ValueError(
                f"vLLM cannot be imported ({error}): pip install 'capo-credit[service,gpu]' (or "
                "cpu), or use --engine openai --upstream URL"
            ) from error
        known = {field.name for field in fields(AsyncEngineArgs)}
        if unknown := sorted(self._engine_args.keys() - known):
            raise ValueError(f"vLLM has no engine argument {', '.join(unknown)}")
        path, local = local_model(self._source)
        if local and (os.cpu_count() or 1) <= _FEW_CORES:
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        self._encoder = PromptEncoder(path, self._template_kwargs, self._thinking_markers)
        arguments: dict[str, Any] = {
            "model": path,
            "use_tqdm_on_load": sys.stderr.isatty(),  # progress bars, also of CUDA graphs
        }
        arguments |= default_arguments(current_platform.is_cpu())
        if current_platform.is_cpu():
            # oneDNN compiles a matrix product for each number of tokens that a batch has had, and
            # caches 1,024 of them: memory grows for hours, and a few are as fast.
            os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
        self._arguments = AsyncEngineArgs(**arguments | local | self._engine_args)
        return path

    async def _load(self) -> VllmRunner:
        from vllm.v1.engine.async_llm import AsyncLLM

        assert self._arguments is not None and self._encoder is not None, "start() comes first"  # noqa: S101
        StartUpFilter.loading = True
        try:
            config = await asyncio.to_thread(engine_config, self._arguments)
            llm = await asyncio.to_thread(AsyncLLM.from_vllm_config, config)
        finally:
            StartUpFilter.loading = False
        batch = batch_limits(llm.vllm_config)
        log.info("%s", describe_limits(batch, llm.model_config.max_model_len))
        self._limits = JudgeLimits(
            slots=batch.slots,
            context_length=llm.model_config.max_model_len,
            tokenizer_json=self._encoder.tokenizer_json,
            thinking_markers=self._encoder.markers.texts,
            top_logprobs=top_logprobs(llm.model_config),
            batch=batch,
        )
        self._router = RankRouter(batch.ranks, batch.max_num_seqs)
        runner = VllmRunner(llm, self._encoder)
        # Triggers vLLM's compilation at first use, and checks that the judge can generate.
        warm_up = self.encode(JudgePrompt((("Say a.", True),), (("Well?", True),)))
        sampling = CritiqueSampling(1.0, 0.9, max_tokens=1, seed=0, constraint=self._warm_up)
        try:
            await runner.complete("warm-up", warm_up, sampling)
        except BaseException:
            await runner.end(lost=True)
            raise
        return runner
