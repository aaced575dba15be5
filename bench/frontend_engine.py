"""A stand-in for the connection to vLLM's engine, for the benchmark of the front end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder


class StandIn:
    """In place of the connection to an engine: encodes and decodes as vLLM's own does.

    Attributes:
        seconds: processor time that it took as the engine, which no front end takes.
        aborted: the requests that were aborted.
    """

    engine_ranks_managed = (0,)

    def __init__(self) -> None:
        self.resources = SimpleNamespace(engine_manager=None, engine_dead=False)
        self.seconds = 0.0
        self.aborted: list[str] = []
        self._encoder, self._decoder = MsgpackEncoder(), MsgpackDecoder(EngineCoreOutputs)
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._requests: list[str] = []

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    async def add_request_async(self, request: Any) -> None:
        request.client_index = 0
        self._encoder.encode(request)
        self._requests.append(request.request_id)

    async def abort_requests_async(self, requests: Sequence[str]) -> None:
        self.aborted += requests

    async def get_output_async(self) -> EngineCoreOutputs:
        return self._decoder.decode(await self._messages.get())

    def shutdown(self, timeout: float | None = None) -> None:
        return None

    async def answer(self, requests: int, tokens: Sequence[int], ends: bool = True) -> None:
        """Wait for so many requests, then sample the tokens for all of them together."""
        while len(self._requests) < requests:
            await asyncio.sleep(0)
        names, self._requests = self._requests, []
        for position, token in enumerate(tokens):
            started = time.thread_time()
            is_last = ends and position == len(tokens) - 1
            finish = FinishReason.STOP if is_last else None
            read = PrefillStats() if position == 0 else None
            outputs = [
                EngineCoreOutput(name, [token], finish_reason=finish, prefill_stats=read)
                for name in names
            ]
            message = self._encoder.encode(EngineCoreOutputs(outputs=outputs))
            self.seconds += time.thread_time() - started
            self._messages.put_nowait(message)
            while not self._messages.empty():
                await asyncio.sleep(0)
