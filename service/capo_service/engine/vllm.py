"""The judge in this process tree: vLLM's AsyncLLM.

vLLM schedules everything; the service adds no batching. Every critique is a request of its own,
so that each can be ended alone; automatic prefix caching makes the k critiques of a rollout share
its prompt, and the rollouts of a question their beginning.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import psutil

from capo_service.engine import embedded
from capo_service.engine.base import (
    FINISHED_EARLY,
    Completion,
    CritiqueSampling,
    EncodedPrompt,
    EngineBusyError,
    EngineDeadError,
    EngineError,
    EngineStatus,
    JudgeLimits,
    JudgePrompt,
    TokenPrompt,
    engine_metrics,
)
from capo_service.engine.local_models import local_model
from capo_service.engine.orphan_reaper import Reaper
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.supervisor import Supervisor

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

# vLLM would leave one core of few unused; all of them, unbound, are faster (1.25 times on 2).
_FEW_CORES = 4
CPU_WORKER = "capo_service.engine.cpu_worker.SeedsOnCpu"


class VllmEngine:
    """Serves a hub name, a folder, `embedded`, or one of the testbed's judges.

    Args:
        model: the judge.
        engine_args: any field of vLLM's `AsyncEngineArgs`, passed through.
        template_kwargs: extra variables for the judge's chat template.
        hang_seconds: without an answer, after which a working engine counts as hanging.
    """

    kind = "vllm"

    def __init__(
        self,
        model: str,
        engine_args: Mapping[str, Any] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        hang_seconds: float = 60.0,
    ) -> None:
        self.model = embedded.TOKENIZER_NAME if model == embedded.NAME else model
        self._source = model
        self._engine_args = dict(engine_args or {})
        self._template_kwargs = dict(template_kwargs or {})
        self._arguments: AsyncEngineArgs | None = None
        self._supervisor: Supervisor[_Llm] = Supervisor(self._load, hang_seconds)
        self._encoder: PromptEncoder | None = None
        self._limits = JudgeLimits()

    @property
    def status(self) -> EngineStatus:
        keeper = self._supervisor
        return EngineStatus(
            ready=keeper.runner is not None,
            dead=keeper.dead,
            ready_in=keeper.ready_in,
            restarts=keeper.restarts,
        )

    async def start(self) -> JudgeLimits:
        path = await asyncio.to_thread(self._prepare)
        log.info("loading %s with vLLM", self.model)
        await self._supervisor.start()
        log.info("%s from %s is ready", self.model, path)
        return self._limits

    async def _load(self) -> _Llm:
        from vllm.v1.engine.async_llm import AsyncLLM

        assert self._arguments is not None and self._encoder is not None, "start() comes first"  # noqa: S101
        config = await asyncio.to_thread(engine_config, self._arguments)
        llm = await asyncio.to_thread(AsyncLLM.from_vllm_config, config)
        self._limits = JudgeLimits(
            slots_of(llm.vllm_config), llm.model_config.max_model_len, self._encoder.tokenizer_json
        )
        log.info("%s", limits(llm.vllm_config))
        runner = _Llm(llm)
        # What is made at first use is made now; and a judge that cannot write is not ready.
        warm_up = self.encode(JudgePrompt((("Say a.", True),), (("Well?", True),)))
        try:
            await runner.complete(
                "warm-up", warm_up, CritiqueSampling(1.0, 0.9, 1, 0, 'root ::= "a"')
            )
        except BaseException:
            await runner.end(lost=True)
            raise
        return runner

    def _prepare(self) -> str:
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
        self._encoder = PromptEncoder(path, self._template_kwargs)
        arguments: dict[str, Any] = {"model": path, "enable_prefix_caching": True}
        if current_platform.is_cpu():
            arguments["worker_extension_cls"] = CPU_WORKER
            # oneDNN compiles a matrix product for each number of tokens that a batch has had, and
            # keeps 1,024 of them: hours of growth, and no more speed than with a few.
            os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
        self._arguments = AsyncEngineArgs(**arguments | local | self._engine_args)
        return path

    async def close(self) -> None:
        await self._supervisor.close()

    def encode(self, prompt: JudgePrompt) -> TokenPrompt:
        assert self._encoder is not None, "start() comes first"  # noqa: S101
        return TokenPrompt(self._encoder.encode(prompt), prompt.opening, self._encoder.thought)

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        assert isinstance(prompt, TokenPrompt), "not encoded here"  # noqa: S101
        runner = self._supervisor.runner
        if runner is None:
            raise EngineDeadError("the judge's engine is being started again")
        return await runner.complete(request, prompt, sampling)

    async def abort(self, request: str) -> None:
        if (runner := self._supervisor.runner) is not None:
            await runner.abort(request)

    async def metrics(self) -> bytes:
        from prometheus_client import REGISTRY, generate_latest  # where vLLM registers its own

        return engine_metrics(generate_latest(REGISTRY))


def engine_config(arguments: AsyncEngineArgs) -> VllmConfig:
    """vLLM's configuration, with the batch limits that its own `LLM` class has.

    Without a usage context vLLM falls back to limits meant for tests: 128 sequences and 2,048
    tokens a step on any hardware, where `LLM` has 1,024 and 16,384 on an H100 (vLLM 0.32).
    """
    from vllm.usage.usage_lib import UsageContext

    return arguments.create_engine_config(UsageContext.LLM_CLASS)


def slots_of(config: VllmConfig) -> int:
    """Sequences that all data-parallel ranks together sample at once."""
    return int(config.scheduler_config.max_num_seqs * config.parallel_config.data_parallel_size)


def limits(config: VllmConfig) -> str:
    """The limits that an engine runs with, as one line for the log."""
    scheduler, ranks = config.scheduler_config, config.parallel_config.data_parallel_size
    cache = config.cache_config.kv_cache_size_tokens
    parts = [
        f"max_num_seqs {scheduler.max_num_seqs}",
        f"max_num_batched_tokens {scheduler.max_num_batched_tokens}",
        f"context {config.model_config.max_model_len} tokens",
        "KV cache of unknown size" if cache is None else f"KV cache {cache} tokens",
    ]
    if ranks > 1:
        parts.append(f"each of {ranks} data-parallel ranks")
    return f"vLLM's limits: {', '.join(parts)} (change with engine_args)"


class _Llm:
    """One AsyncLLM and its processes."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        manager = llm.engine_core.resources.engine_manager
        self._processes = _family([p.pid for p in getattr(manager, "processes", ())])
        self._reaper = Reaper(process.pid for process in self._processes)
        parallel = llm.vllm_config.parallel_config
        self._is_here = (
            bool(self._processes)
            and parallel.nnodes == 1
            and parallel.distributed_executor_backend != "ray"
        )

    @property
    def failed(self) -> bool:
        return bool(self._llm.errored)

    async def ping(self) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

        try:
            await self._llm.is_sleeping()  # answered by the engine's own loop, between two steps
        except VllmDeadError as error:
            raise EngineDeadError("the judge's engine died") from error
        except RuntimeError as error:
            if "returned different" not in str(error):  # then every data-parallel rank answered
                raise

    def processor_seconds(self) -> float:
        if not self._is_here:  # it may be waiting for other machines, which cannot be seen
            return time.monotonic()
        used = [_used(process) for process in self._processes]
        return 0.0 if None in used else sum(seconds or 0.0 for seconds in used)

    async def end(self, lost: bool) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

        if lost:
            for process in self._processes:
                with suppress(psutil.Error):
                    process.kill()
            # As vLLM does itself where it sees the end before its own shutdown.
            self._llm.output_processor.propagate_error(VllmDeadError())
        await asyncio.to_thread(self._llm.shutdown)
        await asyncio.to_thread(self._reaper.close)

    async def complete(
        self, request: str, prompt: TokenPrompt, sampling: CritiqueSampling
    ) -> Completion:
        from vllm.exceptions import GracefulHTTPError, VLLMError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

        final = None
        try:
            # With a reasoning parser vLLM applies a grammar only after the end of a thought, which
            # our prompts never show; where the critique begins, no thought is open.
            async for output in self._llm.generate(
                tokens_input(prompt.ids),
                _sampling_params(sampling),
                request,
                reasoning_ended=True,
            ):
                final = output
        except VllmDeadError as error:
            raise EngineDeadError("the judge's engine died") from error
        except GracefulHTTPError as error:  # its own queue limits, set by engine arguments
            raise EngineBusyError(str(error)) from error
        except VLLMError as error:
            raise EngineError(str(error)) from error
        if final is None:
            return Completion("", FINISHED_EARLY, prompt.tokens)
        sampled = final.outputs[0]
        return Completion(
            text=sampled.text,
            finish_reason=str(sampled.finish_reason or FINISHED_EARLY),
            prompt_tokens=prompt.tokens,
            cached_tokens=final.num_cached_tokens or 0,
            completion_tokens=len(sampled.token_ids),
        )

    async def abort(self, request: str) -> None:
        with suppress(Exception):  # an engine that has just died has nothing to abort
            await self._llm.abort(request)


def _family(pids: Iterable[int]) -> list[psutil.Process]:
    """Processes, and those that they have started."""
    found: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def _used(process: psutil.Process) -> float | None:
    """Processor seconds; None while it is stopped, 0 where it is gone."""
    try:
        if process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            return None
        times = process.cpu_times()
    except (psutil.Error, OSError):  # OSError: this process has no file descriptor left to look
        return 0.0
    return float(times.user + times.system)


def _sampling_params(sampling: CritiqueSampling) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    constraint = StructuredOutputsParams(grammar=sampling.grammar) if sampling.grammar else None
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        structured_outputs=constraint,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
