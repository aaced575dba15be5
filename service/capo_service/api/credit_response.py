"""The response of `POST /credit`: one JSON document, or a stream of NDJSON."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

import capo_wire as wire
from capo_service.api import problems
from capo_service.concurrency.cpu_thread import off_loop
from capo_service.observability.metrics import Telemetry
from capo_service.pipeline.batch import BatchCreditor
from capo_service.pipeline.types import BatchAnswer, Judged, RolloutBatch
from capo_service.scheduling.api_keys import ApiKey

log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"
_INLINE_BYTES = 64 * 1024  # smaller bodies are parsed and written on the event loop
_NO_USAGE = wire.Usage()
# Clients then send the shorter form; services before 0.1 refuse it as an unknown field.
_HEADERS = {wire.FORMS_HEADER: ", ".join(wire.TOKEN_FORMS)}

T = TypeVar("T")


async def counted(telemetry: Telemetry, answering: Awaitable[T]) -> T:
    """Respond to a request for credit, and count it by its status and latency.

    Raises:
        ProblemError: the request is refused.
    """
    started, status = time.monotonic(), 500
    try:
        answer = await answering
        status = answer.status_code if isinstance(answer, Response) else 200
        return answer
    except problems.DOMAIN_ERRORS as error:
        status = problems.explain(error).status
        raise
    except problems.ProblemError as error:
        status = error.problem.status
        raise
    finally:
        telemetry.requested(status, time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class CreditCall:
    """One request for credit: its batch, API key and start time.

    `started` is a time of `time.monotonic`.
    """

    batch: RolloutBatch
    key: ApiKey
    model: str
    started: float

    def summary(self, totals: Totals) -> wire.CreditSummary:
        """What accompanies the results."""
        return wire.CreditSummary(
            id=self.batch.request_id,
            model=self.model,
            usage=totals.usage,
            timing_ms=wire.Timing(
                queue=round(totals.queue_seconds * 1000, 3),
                engine=round(totals.engine_seconds * 1000, 3),
                total=round((time.monotonic() - self.started) * 1000, 3),
            ),
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals over the answers so far: tokens, maximum queue time, maximum judge time."""

    usage: wire.Usage = _NO_USAGE
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0

    def plus(self, answer: BatchAnswer) -> Totals:
        """The totals with another answer included."""
        judged = answer.outcome
        if not isinstance(judged, Judged):
            return self
        return Totals(
            self.usage + judged.result.usage,
            max(self.queue_seconds, judged.queue_seconds),
            max(self.engine_seconds, judged.engine_seconds),
        )


async def credit_json(call: CreditCall, creditor: BatchCreditor) -> Response:
    """All results at once.

    Raises:
        ProblemError: nothing was credited, and the service is the only cause.
    """
    results: dict[int, wire.Credited | wire.Failed] = {}
    totals = Totals()
    async with aclosing(creditor.credit(call.batch, call.key)) as answers:
        async for answer in answers:
            results[answer.position] = answer.result
            totals = totals.plus(answer)
    ordered = [results[position] for position in range(len(call.batch.items))]
    failed = [result.error for result in ordered if isinstance(result, wire.Failed)]
    if len(failed) == len(ordered) and all(e.status in (429, 503, 504) for e in failed):
        raise problems.from_problem(max(failed, key=lambda problem: problem.status))
    tokens = sum(len(r.token_rewards or ()) for r in ordered if isinstance(r, wire.Credited))
    body = await by_size(16 * tokens, _json, call.summary(totals), ordered)
    return Response(body, media_type="application/json", headers=_HEADERS)


def _json(summary: wire.CreditSummary, results: Sequence[wire.Credited | wire.Failed]) -> bytes:
    """A `CreditResponse`, serialised result by result, so that the GIL is never held for long."""
    written = ",".join(result.model_dump_json() for result in results)
    return f'{summary.model_dump_json()[:-1]},"results":[{written}]}}'.encode()


class NdjsonResponse(Response):
    """Results as NDJSON, each as it finishes, and the summary as the last line.

    Args:
        call: the request.
        answers: those after the first.
        first: the first answer.
        line_seconds: timeout for the client to read a line.
    """

    media_type = NDJSON

    def __init__(
        self,
        call: CreditCall,
        answers: AsyncGenerator[BatchAnswer, None],
        first: BatchAnswer,
        line_seconds: float,
    ) -> None:
        super().__init__(media_type=NDJSON, headers={"Cache-Control": "no-store", **_HEADERS})
        del self.headers["content-length"]
        self._call = call
        self._answers = answers
        self._first = first
        self._line_seconds = line_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._answers):
            try:
                await until_disconnect(receive, self._send_all(send))
            except TimeoutError:
                scope["state"]["ended"] = "client stopped reading"
                log.warning("client stopped reading; stream closed")
            except problems.ProblemError:  # the status line was already sent
                scope["state"]["ended"] = "client disconnected"

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for line in self._lines():
            # A client that stops reading would keep its queue capacity.
            async with asyncio.timeout(self._line_seconds):
                await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
            await asyncio.sleep(0)  # lets other requests run between lines that are ready
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        totals = Totals().plus(self._first)
        yield self._first.result.model_dump_json().encode()
        async for answer in self._answers:
            totals = totals.plus(answer)
            yield answer.result.model_dump_json().encode()
        yield self._call.summary(totals).model_dump_json().encode()


async def credit_stream(
    call: CreditCall, creditor: BatchCreditor, line_seconds: float
) -> NdjsonResponse:
    """Wait for the first result, so that a refused request still gets a status of its own."""
    answers = creditor.credit(call.batch, call.key)
    return NdjsonResponse(call, answers, await anext(answers), line_seconds)


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it when the client disconnects. The body must have been read."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise problems.error("client-closed", "the client closed the connection")
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
