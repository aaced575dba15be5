"""The client against a real service: batches, streams, retries, deadlines, errors."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy
import pytest

import capo_client
import capo_wire as wire
from capo_client import AsyncCreditClient, CreditClient, Rollout
from capo_client.retry import RetryPolicy
from capo_wire.retry_policy import retry_after
from kit_scripted import ScriptedEngine
from kit_service import Service, eventually, serving, settings

QUICK = RetryPolicy(attempts=3, base=0.01, longest=0.1)


def rollouts(count: int) -> list[Rollout]:
    return [
        Rollout(
            id=f"r{i}", question=f"q{i % 3}", response="a\n\nb" + "!" * i, outcome=i / count,
            token_offsets=[(0, 1), (1, 3), *((3 + j, 4 + j) for j in range(i + 1))],
        )
        for i in range(count)
    ]  # fmt: skip


class Flaky(httpx.AsyncBaseTransport):
    """The network, failing by plan: an exception, a status with headers, or a cut answer."""

    def __init__(self, *plan: Any) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self._plan = list(plan)
        self.sent: list[list[str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        step = self._plan.pop(0) if self._plan else None
        if request.content:
            self.sent.append([r["id"] for r in json.loads(request.content)["rollouts"]])
        if isinstance(step, Exception):
            raise step
        if isinstance(step, int):
            problem = {"type": "t", "title": "T", "status": step, "detail": f"planned {step}"}
            return httpx.Response(step, json=problem, headers={"Retry-After": "0"})
        response = await self._inner.handle_async_request(request)
        if step == "cut":
            lines = (await response.aread()).splitlines(keepends=True)
            return httpx.Response(200, stream=_Cut(lines[:2]), headers=response.headers)
        return response


class _Cut(httpx.AsyncByteStream):
    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for line in self._lines:
            yield line
        raise httpx.ReadError("cut off")


def test_a_batch_is_split_and_comes_back_in_order(service: Service) -> None:
    sent = rollouts(20)
    seen: list[tuple[int, int]] = []
    with CreditClient(service.url, batch_size=3, concurrency=4) as client:
        batch = client.credit(sent, progress=lambda done, total: seen.append((done, total)))
    assert [result.id for result in batch] == [rollout.id for rollout in sent]
    assert seen == [(i, 20) for i in range(1, 21)]
    for rollout, result in zip(sent, batch.raise_for_errors(), strict=True):
        assert isinstance(result, wire.Credited)
        assert result.token_rewards is not None and rollout.token_offsets is not None
        assert len(result.token_rewards) == len(rollout.token_offsets)
    assert batch.usage.critiques_run == sum(r.usage.critiques_run for r in batch.credited)


async def test_the_async_client_does_the_same(service: Service) -> None:
    sent = rollouts(10)
    async with AsyncCreditClient(service.url, batch_size=3, concurrency=2) as client:
        batch = await client.credit(sent)
        streamed = {position: r async for position, r in client.credit_stream(sent)}
        assert (await client.info()).model == "scripted" and await client.is_ready()
    assert [result.id for result in batch] == [rollout.id for rollout in sent]
    assert sorted(streamed) == list(range(10))


def test_a_stream_yields_before_the_batch_is_done(tmp_path: Path) -> None:
    engine = ScriptedEngine(delay=0.2)
    with (
        serving(engine, settings(tmp_path, max_running=1)) as service,
        CreditClient(service.url, batch_size=4) as client,
    ):
        stream = client.credit_stream(rollouts(4))
        next(iter(stream))
        assert service.service.admission.accepted == 4
        assert len(list(stream)) == 3


@pytest.mark.parametrize(
    "plan",
    [
        [429, 503], [httpx.ConnectError("no")], [httpx.ReadError("gone"), 503], ["cut"],
        ["cut", "cut", "cut", "cut"],
    ],
)  # fmt: skip
def test_what_passes_is_tried_again_and_each_rollout_comes_back_once(
    service: Service, plan: list[Any]
) -> None:
    transport = Flaky(*plan)
    with CreditClient(service.url, transport=transport, retry=QUICK, batch_size=9) as client:
        items = list(client.credit_stream(rollouts(9)))
    assert sorted(position for position, _ in items) == list(range(9))
    assert all(isinstance(result, wire.Credited) for _, result in items)
    if plan == ["cut"]:
        assert len(transport.sent[1]) == 7, "only what had no result is sent again"


def test_rollouts_that_the_service_was_too_busy_for_are_sent_again(tmp_path: Path) -> None:
    """Failures inside an answer are retried as whole answers are."""
    killed = []

    class Reviving(ScriptedEngine):
        async def complete(self, request: str, *rest: Any) -> Any:
            from capo_service.engine.base import EngineBusyError

            if len(killed) < 2:
                killed.append(request)
                raise EngineBusyError("later")
            return await super().complete(request, *rest)

    with (
        serving(Reviving(), settings(tmp_path)) as service,
        CreditClient(service.url, retry=QUICK) as client,
    ):
        assert len(client.credit(rollouts(5)).credited) == 5
    assert killed


def test_nothing_credited_because_of_the_service_is_an_exception() -> None:
    with (
        CreditClient("http://127.0.0.1:9", retry=QUICK) as client,
        pytest.raises(capo_client.UnavailableError, match="gave up after 3 attempts"),
    ):
        client.credit(rollouts(2))


def test_a_full_service_is_not_given_up_before_the_deadline(service: Service) -> None:
    transport = Flaky(*[429] * 9, 503, 429, 503)
    with CreditClient(service.url, transport=transport, retry=QUICK) as client:
        assert len(client.credit(rollouts(2)).credited) == 2
    full = Flaky(*[429] * 10_000)
    with (
        CreditClient(service.url, transport=full, retry=QUICK) as client,
        pytest.raises(capo_client.DeadlineExceededError),
    ):
        client.credit(rollouts(2), deadline=0.5)


def test_part_of_a_batch_lost_is_marked_never_dropped_nor_zero(service: Service) -> None:
    plan = [None] + [503] * 30
    client = CreditClient(
        service.url, transport=Flaky(*plan), retry=QUICK, batch_size=2, concurrency=1
    )
    with client:
        batch = client.credit(rollouts(6))
    assert len(batch) == 6 and len(batch.credited) == 2
    assert {failed.error.status for failed in batch.failed} == {503}
    with pytest.raises(capo_client.CreditFailedError, match="4 rollouts were not credited"):
        batch.raise_for_errors()
    with pytest.raises(capo_client.CreditFailedError):
        capo_client.padded_token_rewards(batch)
    _, mask = capo_client.padded_token_rewards(batch, failed="mask")
    assert mask.any(axis=1).tolist() == [result.status == "ok" for result in batch]


def test_the_deadline_holds_for_the_whole_call(tmp_path: Path) -> None:
    with (
        serving(ScriptedEngine(delay=30), settings(tmp_path)) as service,
        CreditClient(service.url) as client,
        pytest.raises(capo_client.DeadlineExceededError, match="rollouts not credited"),
    ):
        client.credit(rollouts(3), deadline=0.5)


def test_a_deadline_keeps_what_was_credited_by_then(tmp_path: Path) -> None:
    class Hangs(ScriptedEngine):
        async def complete(self, *given: Any) -> Any:
            self.delay = 0 if len(self.prompts) < 3 else 60
            return await super().complete(*given)

    with (
        serving(Hangs(), settings(tmp_path, max_running=1)) as service,
        CreditClient(service.url, batch_size=8) as client,
    ):
        batch = client.credit(rollouts(8), voting={"n": 1}, deadline=4)
        assert len(batch.credited) == 3
        assert [failed.error.status for failed in batch.failed] == [504] * 5


def test_what_the_service_refuses_is_raised_with_its_problem(service: Service) -> None:
    with CreditClient(service.url) as client:
        with pytest.raises(capo_client.InvalidRequestError, match="greedy takes one"):
            client.credit(rollouts(1), voting={"method": "greedy", "n": 4})
        with pytest.raises(capo_client.InvalidRequestError) as caught:
            client.credit(rollouts(1), colour="red")
        assert caught.value.problem.field == "colour"
        [result] = client.credit([{"question": "q", "colour": "red"}])
        assert isinstance(result, wire.Failed) and "colour" in result.error.detail
        assert client.credit([]).results == []
        with CreditClient(service.url + "/nowhere") as lost:
            with pytest.raises(capo_client.ProblemResponseError):
                lost.credit(rollouts(1))
            with pytest.raises(capo_client.ProblemResponseError):
                lost.info()


def test_a_wrong_key_is_told_apart(tmp_path: Path) -> None:
    with (
        serving(ScriptedEngine(), settings(tmp_path, api_keys=["k"])) as service,
        CreditClient(service.url, api_key="wrong") as client,
        pytest.raises(capo_client.UnauthorizedError),
    ):
        client.credit(rollouts(1))


def test_an_answer_of_something_else_is_no_credit() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>hello"))
    with CreditClient("http://x", transport=transport) as client:
        with pytest.raises(capo_client.InvalidResponseError, match="a line without a result"):
            client.credit(rollouts(1))
        with pytest.raises(capo_client.InvalidResponseError, match="is it a capo service"):
            client.info()


def test_leaving_a_stream_takes_its_requests_back(tmp_path: Path) -> None:
    engine = ScriptedEngine(delay=30)
    with (
        serving(engine, settings(tmp_path, max_running=1)) as service,
        CreditClient(service.url, batch_size=8) as client,
    ):
        engine.delay = 0.2
        stream = client.credit_stream(rollouts(8))
        next(stream)
        engine.delay = 30
        stream.close()
        eventually(lambda: service.service.admission.accepted == 0)


def test_a_program_that_is_interrupted_or_forgets_to_close_ends(tmp_path: Path) -> None:
    code = (
        # A shell's background jobs ignore the signal, and so do their children.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import sys, capo_client as c; client = c.CreditClient(sys.argv[1]); print('go', flush=True);"
        "client.credit([c.Rollout(question='q', response='x', outcome=1)])"
    )
    with serving(ScriptedEngine(delay=60), settings(tmp_path)) as service:
        program = subprocess.Popen(
            [sys.executable, "-c", code, service.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert program.stdout is not None and program.stdout.readline() == b"go\n"
        eventually(lambda: service.service.admission.accepted == 1)
        program.send_signal(signal.SIGINT)
        said = program.communicate(timeout=20)[1].decode()
        assert program.returncode == -signal.SIGINT, said
        assert said.splitlines()[-1] == "KeyboardInterrupt"
        eventually(lambda: service.service.admission.accepted == 0)


async def test_leaving_an_async_stream_ends_its_requests(tmp_path: Path) -> None:
    engine = ScriptedEngine(delay=0.3)
    with serving(engine, settings(tmp_path, max_running=1)) as service:
        async with AsyncCreditClient(service.url, batch_size=8) as client:
            stream = client.credit_stream(rollouts(8))
            await anext(stream)
            await stream.aclose()
        eventually(lambda: service.service.admission.accepted == 0)


def test_padded_arrays(service: Service) -> None:
    with CreditClient(service.url) as client:
        batch = client.credit(rollouts(3))
        no_tokens = client.credit([Rollout(question="q", response="x", outcome=1)])
    values, mask = capo_client.padded_token_rewards(batch, length=7, pad=-9, side="left")
    assert values.shape == mask.shape == (3, 7) and values.dtype == numpy.float32
    assert mask.sum(axis=1).tolist() == [3, 4, 5] and (values[~mask] == -9).all()
    assert (values[2][mask[2]] == numpy.float32(batch.credited[2].token_rewards)).all()
    torch_values, torch_mask = capo_client.padded_token_rewards(batch, kind="torch")
    assert tuple(torch_values.shape) == (3, 5) and torch_mask.sum().item() == 12
    with pytest.raises(ValueError, match="more than length"):
        capo_client.padded_token_rewards(batch, length=4)
    with pytest.raises(capo_client.InvalidResponseError, match="no token_rewards"):
        capo_client.padded_token_rewards(no_tokens)
    assert capo_client.padded_token_rewards([])[0].shape == (0, 0)


def test_retry_waits_are_bounded_jittered_and_at_least_what_was_asked() -> None:
    policy = RetryPolicy(base=1, longest=10)
    for attempt in range(1, 200):
        assert 0 <= policy.wait(attempt) <= 10
        assert 3 <= policy.wait(attempt, 3) <= 10
    assert policy.wait(1, 99) == 10
    assert len({policy.wait(5) for _ in range(20)}) > 1
    assert [retry_after(v) for v in (None, "2", "-1", "Wed, 21 Oct 2026 07:28:00 GMT")] == [
        0,
        2,
        0,
        0,
    ]


def test_a_session_credits_what_is_submitted_meanwhile(service: Service) -> None:
    async def story() -> None:
        async with AsyncCreditClient(service.url) as client, client.session() as session:
            sent = rollouts(12)
            assert session.submit(sent[:5]) == range(5)
            seen = []
            async for position, result in session.results():
                seen.append(position)
                assert result.id == f"r{position}" and result.status == "ok"
                if len(seen) == 2:
                    assert session.submit(sent[5:]) == range(5, 12)
            assert sorted(seen) == list(range(12))
            batch = await session.collect()
            assert [result.id for result in batch] == [rollout.id for rollout in sent]
            session.submit(sent[:1])
            assert len(await session.collect()) == 13

    asyncio.run(story())


def test_a_session_loses_nothing_when_the_service_is_gone(service: Service) -> None:
    async def story() -> None:
        transport = Flaky(None, *[503] * 30)
        async with AsyncCreditClient(service.url, transport=transport, retry=QUICK) as client:
            with pytest.raises(capo_client.InvalidRequestError):
                client.session(voting={"n": 0})
            async with client.session() as session:
                session.submit(rollouts(2))
                await session.collect()
                session.submit(rollouts(3))
                session.submit([Rollout(id="last", question="q", response="a", outcome=1.0)])
                batch = await session.collect()
        assert [result.status for result in batch] == ["ok"] * 2 + ["error"] * 4
        assert [failed.id for failed in batch.failed] == ["r0", "r1", "r2", "last"]

    asyncio.run(story())


def test_leaving_a_session_takes_back_what_is_under_way(tmp_path: Path) -> None:
    engine = ScriptedEngine(delay=30)

    async def story(url: str) -> None:
        async with AsyncCreditClient(url) as client, client.session() as session:
            session.submit(rollouts(2))
            async with asyncio.timeout(20):
                while engine.running < 8:
                    await asyncio.sleep(0.01)

    with serving(engine, settings(tmp_path)) as service:
        asyncio.run(story(service.url))
        eventually(lambda: engine.running == 0)


def test_replicas_share_the_work_and_questions_stay_together(tmp_path: Path) -> None:
    engines = [ScriptedEngine(), ScriptedEngine()]
    with ExitStack() as stack:
        services = [stack.enter_context(serving(engine, settings(tmp_path))) for engine in engines]
        with CreditClient(",".join(each.url for each in services), batch_size=2) as client:
            assert client.is_ready() and client.info().engine == "scripted"
            sent = [
                Rollout(question=f"question {i % 16}", response=f"a {i}", outcome=1.0)
                for i in range(64)
            ]
            batch = client.credit(sent, voting={"n": 1})
    assert len(batch.raise_for_errors().credited) == 64
    asked = [{prompt.split("question ")[1][:2] for prompt in e.prompts} for e in engines]
    assert all(asked) and not asked[0] & asked[1]


def test_a_replica_that_is_gone_costs_no_wait_and_no_rollout(tmp_path: Path) -> None:
    with serving(ScriptedEngine(), settings(tmp_path)) as service:
        gone = "http://127.0.0.1:9"  # the discard port; nothing listens
        patient = RetryPolicy(attempts=3, base=600, longest=600)
        with CreditClient([gone, service.url], batch_size=1, retry=patient) as client:
            assert client.is_ready() and client.info()
            batch = client.credit(rollouts(20), deadline=60)
    assert len(batch.raise_for_errors().credited) == 20
