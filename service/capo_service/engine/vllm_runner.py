"""One AsyncLLM and its processes, which the supervisor watches, ends and replaces."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from capo_service.engine.base import (
    FINISHED_EARLY,
    Completion,
    CritiqueFailedError,
    CritiqueSampling,
    EngineBusyError,
    EngineDeadError,
    TokenPrompt,
)
from capo_service.engine.orphan_reaper import OrphanReaper
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.thought_split import split_thought
from capo_service.engine.vllm_front_end import FrontEnd

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


class VllmRunner:
    """Implements `supervisor.Runner` for vLLM.

    Args:
        llm: an engine that was just created; its processes are ended with this service.
        encoder: the judge's tokenizer and thoughts.
    """

    def __init__(self, llm: AsyncLLM, encoder: PromptEncoder) -> None:
        self._llm = llm
        self._encoder = encoder
        self._front_end = FrontEnd(llm, encoder.thought_end, encoder.largest_id)
        manager = llm.engine_core.resources.engine_manager
        self._processes = _with_descendants([p.pid for p in getattr(manager, "processes", ())])
        self._reaper = OrphanReaper(process.pid for process in self._processes)
        parallel = llm.vllm_config.parallel_config
        self._is_local = (
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

    def cpu_seconds(self) -> float:
        if not self._is_local:  # it may be waiting for other machines, whose CPU use is unknown
            return time.monotonic()
        used = [_cpu_seconds(process) for process in self._processes]
        return 0.0 if None in used else sum(seconds or 0.0 for seconds in used)

    async def end(self, lost: bool) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

        if lost:
            for process in self._processes:
                with suppress(psutil.Error):
                    process.kill()
            # As vLLM does where it notices the end of a process before its own shutdown.
            self._llm.output_processor.propagate_error(VllmDeadError())
        await asyncio.to_thread(self._llm.shutdown)
        await asyncio.to_thread(self._reaper.close)
        self._front_end.close()

    async def complete(
        self,
        request: str,
        prompt: TokenPrompt,
        sampling: CritiqueSampling,
        rank: int | None = None,
    ) -> Completion:
        """Sample one critique on a data-parallel rank; errors as in `Engine.complete`."""
        from vllm.exceptions import GracefulHTTPError, VLLMError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

        final = None
        try:
            # With a reasoning parser vLLM applies a constraint only after the end of a thought,
            # where ours already bounds the thought.
            async for output in self._llm.generate(
                tokens_input(prompt.ids),
                self._front_end.params(sampling, prompt),
                request,
                reasoning_ended=True,
                data_parallel_rank=rank,
            ):
                final = output
        except VllmDeadError as error:
            raise EngineDeadError("the judge's engine died") from error
        except GracefulHTTPError as error:  # its own queue limits, set by engine arguments
            raise EngineBusyError(str(error)) from error
        except VLLMError as error:
            raise CritiqueFailedError(str(error)) from error
        if final is None:
            return Completion("", FINISHED_EARLY, prompt.tokens)
        sampled = final.outputs[0]
        budget = sampling.thinking_tokens
        written = split_thought(sampled.token_ids, self._encoder, budget)
        return Completion(
            text=written.text,
            finish_reason=str(sampled.finish_reason or FINISHED_EARLY),
            prompt_tokens=prompt.tokens,
            cached_tokens=final.num_cached_tokens or 0,
            completion_tokens=len(sampled.token_ids),
            thinking=written.thought,
            thinking_tokens=written.thought_tokens,
            thinking_truncated=0 < budget <= written.thought_tokens,
            token_ids=tuple(sampled.token_ids) if sampling.top_logprobs else (),
            logprobs=[
                {
                    index: each.logprob
                    for index, each in position.items()
                    if each.logprob > -math.inf  # the constraint allows it
                }
                for position in sampled.logprobs or ()
            ],
        )

    async def abort(self, request: str) -> None:
        """End a critique early; unknown requests are ignored."""
        with suppress(Exception):  # an engine that has just died has nothing to abort
            await self._llm.abort(request)


def _with_descendants(pids: Iterable[int]) -> list[psutil.Process]:
    processes: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            processes += [process, *process.children(recursive=True)]
    return processes


def _cpu_seconds(process: psutil.Process) -> float | None:
    """CPU seconds; None while the process is stopped, 0 if it is gone."""
    try:
        if process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            return None
        times = process.cpu_times()
    except (psutil.Error, OSError):  # OSError: this process has no free file descriptor to read it
        return 0.0
    return float(times.user + times.system)
