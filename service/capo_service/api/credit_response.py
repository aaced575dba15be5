"""One call of `POST /credit`: its results, together as JSON or one by one as NDJSON."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

import capo_wire as wire
from capo_service.api import problems
from capo_service.api.parsing import Batch
from capo_service.concurrency.cpu_thread import off_loop
from capo_service.observability.metrics import Asked, Telemetry
from capo_service.pipeline.rollout import Clock
from capo_service.pipeline.service import Answer, Runtime
from capo_service.scheduling.api_keys import ApiKey

log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"
_INLINE_BYTES = 64 * 1024  # smaller bodies are parsed and written on the event loop

T = TypeVar("T")


@contextmanager
def counted(telemetry: Telemetry) -> Iterator[Asked]:
    """Count a request; a refusal's status is that of its problem."""
    with telemetry.request() as asked:
        try:
            yield asked
        except problems.ProblemError as error:
            asked.status = error.problem.status
            raise


class Call:
    """One call of `POST /credit`: its results, and what is told beside them."""

    def __init__(self, runtime: Runtime, batch: Batch, started: float, key: ApiKey) -> None:
        self.id = f"cr_{secrets.token_hex(8)}"
        self.clock = Clock()
        self.patience = runtime.settings.read_seconds
        self.answers = runtime.credit(batch, self.clock, key)
        self._model = runtime.engine.model
        self._count = len(batch.items)
        self._started = started
        self.usage = wire.Usage()

    def add(self, answer: Answer) -> None:
        if isinstance(answer, wire.Credited):
            self.usage += answer.usage

    def summary(self) -> wire.CreditSummary:
        return wire.CreditSummary(
            id=self.id,
            model=self._model,
            usage=self.usage,
            timing_ms=wire.Timing(
                queue=round(self.clock.queue * 1000, 3),
                engine=round(self.clock.engine * 1000, 3),
                total=round((time.monotonic() - self._started) * 1000, 3),
            ),
        )

    async def respond(self) -> Response:
        """All results at once.

        Raises:
            ProblemError: nothing was credited, and only because of the service.
        """
        results: list[Answer | None] = [None] * self._count
        async with aclosing(self.answers) as answers:
            async for position, answer in answers:
                results[position] = answer
                self.add(answer)
        done = [result for result in results if result is not None]
        failed = [result.error for result in done if isinstance(result, wire.Failed)]
        if len(failed) == len(done) and all(e.status in (429, 503, 504) for e in failed):
            raise problems.from_problem(max(failed, key=lambda problem: problem.status))
        tokens = sum(len(r.token_rewards or ()) for r in done if isinstance(r, wire.Credited))
        body = await by_size(16 * tokens, _json, self.summary(), done)
        return Response(body, media_type="application/json")


def _json(summary: wire.CreditSummary, results: Sequence[Answer]) -> bytes:
    """A `CreditResponse`, written result by result: the interpreter is held by none for long."""
    written = ",".join(result.model_dump_json() for result in results)
    return f'{summary.model_dump_json()[:-1]},"results":[{written}]}}'.encode()


class Stream(Response):
    """Results as NDJSON, each as it finishes, and the summary as the last line."""

    media_type = NDJSON

    def __init__(self, call: Call, first: Answer) -> None:
        super().__init__(media_type=NDJSON, headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._call = call
        self._first = first

    @classmethod
    async def begin(cls, call: Call) -> Stream:
        """Wait for the first result, so that a refused request still gets its status."""
        _, first = await anext(call.answers)
        return cls(call, first)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._call.answers):
            facts = scope["state"]["facts"]
            try:
                await until_disconnect(receive, self._send_all(send))
            except TimeoutError:
                facts["ended"] = "client stopped reading"
                log.warning("client stopped reading; stream closed")
            except problems.ProblemError:  # its status was sent long ago
                facts["ended"] = "client disconnected"

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for line in self._lines():
            # A caller that takes nothing holds its place in the queue.
            async with asyncio.timeout(self._call.patience):
                await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
            await asyncio.sleep(0)  # where many are ready, others may have the event loop between
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        self._call.add(self._first)
        yield self._first.model_dump_json().encode()
        async for _, answer in self._call.answers:
            self._call.add(answer)
            yield answer.model_dump_json().encode()
        yield self._call.summary().model_dump_json().encode()


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it when the caller hangs up. The body was read before."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise problems.error("client-closed", "the caller closed the connection")
        return task.result()
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def by_size(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Run CPU work, off the event loop when its input is long."""
    if size <= _INLINE_BYTES:
        return work(*arguments)
    return await off_loop(work, *arguments)
