"""A client in forks, threads, other event loops and pickles: it answers or raises, and never hangs."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.pool import Pool
from typing import Any

import cloudpickle
import httpx
import pytest

import kit_client
from capo_client import (
    AsyncCreditClient,
    CapoError,
    CreditClient,
    InvalidRequestError,
    RetryPolicy,
    _background_loop,
)
from capo_client.adapters.scoring import Sample, Scorer
from kit import tokenizer
from kit_client import HANG, ROLLOUTS, bad_options, credit
from kit_service import Service, eventually
from kit_stub import credited, stub


@pytest.fixture
def forked() -> Iterator[Callable[..., Any]]:
    """Runs a function in a process that is forked here and now, while all our threads run."""
    pools: list[Pool] = []

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        pools.append(multiprocessing.get_context("fork").Pool(2))
        return pools[-1].apply_async(function, arguments).get(timeout=HANG)

    yield run
    for pool in pools:
        pool.terminate()


CLIENT: Any = None  # what a child inherits


def in_child(use: Callable[[Any], Any]) -> Any:
    return use(CLIENT), os.getpid()


def credit_on_a_loop(client: AsyncCreditClient) -> int:
    return len(asyncio.run(client.credit(ROLLOUTS, deadline=HANG)).credited)


def score(scorer: Scorer) -> int:
    return sum(s.source == "judge" for s in scorer.score_now([Sample("q", text="a", outcome=1.0)]))


def score_on_a_loop(scorer: Scorer) -> int:
    found = asyncio.run(scorer.score([Sample("q", text="a", outcome=1.0)]))
    return sum(each.source == "judge" for each in found)


def close_and_again(client: CreditClient) -> int:
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.credit(ROLLOUTS)
    return 1


USES: list[tuple[Callable[[str], Any], Callable[[Any], int]]] = [
    (CreditClient, credit),
    (CreditClient, close_and_again),
    (AsyncCreditClient, credit_on_a_loop),
    (Scorer, score),
    (Scorer, score_on_a_loop),
]


@pytest.mark.parametrize(("make", "use"), USES, ids=lambda each: each.__name__)
def test_a_client_that_was_used_before_a_fork(
    service: Service,
    forked: Callable[..., Any],
    make: Callable[[str], Any],
    use: Callable[..., int],
) -> None:
    global CLIENT
    CLIENT = make(service.url)
    if use is not close_and_again:
        assert use(CLIENT) == 1
    for _ in range(2):
        found, pid = forked(in_child, use)
        assert found == 1 and pid != os.getpid()
    if use is not close_and_again:
        assert use(CLIENT) == 1, "and the parent's goes on"


LOOP: Any = None


def credit_on_the_same_loop(client: AsyncCreditClient) -> int:
    return len(LOOP.run_until_complete(client.credit(ROLLOUTS, deadline=HANG)).credited)


def opens_its_own(client: AsyncCreditClient) -> bool:
    inherited = client._sender.connections._by_loop[LOOP]
    return (
        credit_on_the_same_loop(client) == 1
        and client._sender.connections._by_loop[LOOP] is not inherited
    )


def test_a_loop_that_is_used_before_and_after_a_fork(
    service: Service, forked: Callable[..., Any]
) -> None:
    """The child must not send over the parent's connections, which the loop still has."""
    global CLIENT, LOOP
    LOOP, CLIENT = asyncio.new_event_loop(), AsyncCreditClient(service.url)
    assert credit_on_the_same_loop(CLIENT) == 1
    assert forked(in_child, opens_its_own)[0]
    assert credit_on_the_same_loop(CLIENT) == 1
    LOOP.run_until_complete(CLIENT.aclose())
    LOOP.close()


def test_a_fork_while_another_thread_starts_the_loop(
    service: Service, forked: Callable[..., Any]
) -> None:
    global CLIENT
    CLIENT = CreditClient(service.url)
    with _background_loop._lock:  # which no thread of the child will ever let go
        assert forked(in_child, credit)[0] == 1


def test_many_forks_while_the_parent_is_busy(service: Service) -> None:
    global CLIENT
    CLIENT = CreditClient(service.url, batch_size=1)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            credit(CLIENT)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                found = pool.map_async(in_child, [credit] * 4).get(timeout=HANG)
                assert [each[0] for each in found] == [1] * 4
    finally:
        stop.set()
        for thread in threads:
            thread.join(HANG)
    CLIENT.close()


def next_of_stream(_: Any) -> str:
    try:
        return str(next(STREAM))
    except RuntimeError as error:
        return str(error)


STREAM: Any = None


def test_a_stream_that_was_begun_before_a_fork_raises(
    service: Service, forked: Callable[..., Any]
) -> None:
    global STREAM
    with CreditClient(service.url, batch_size=1) as client:
        STREAM = client.credit_stream(ROLLOUTS * 3)
        next(STREAM)
        assert "in the process that opened it" in forked(in_child, next_of_stream)[0]
        assert len(list(STREAM)) == 2


def test_an_exception_in_a_worker_arrives(service: Service, forked: Callable[..., Any]) -> None:
    global CLIENT
    CLIENT = CreditClient(service.url)
    with pytest.raises(InvalidRequestError) as caught:
        forked(in_child, bad_options)
    assert caught.value.problem.field == "voting.n" and caught.value.status == 422
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(InvalidRequestError):
            pool.submit(bad_options, CLIENT).result(timeout=HANG)
        assert pool.submit(credit, CLIENT).result(timeout=HANG) == 1, "it was pickled"


async def test_two_loops_at_once_and_one_after_the_other(service: Service) -> None:
    client = AsyncCreditClient(service.url)
    for _ in range(3):
        assert await asyncio.to_thread(credit_on_a_loop, client) == 1
        assert len((await client.credit(ROLLOUTS)).credited) == 1
    found = await asyncio.gather(*(asyncio.to_thread(credit_on_a_loop, client) for _ in range(4)))
    assert found == [1] * 4
    assert await asyncio.to_thread(credit_on_a_loop, client) == 1
    assert len(client._sender.connections._by_loop) <= 2, (
        "those of loops that are closed are let go"
    )
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.credit(ROLLOUTS)


def test_streams_and_sessions_belong_to_their_loop(service: Service) -> None:
    client = AsyncCreditClient(service.url, batch_size=1)
    loops = [asyncio.new_event_loop() for _ in range(2)]

    async def begin() -> tuple[Any, Any]:
        stream = client.credit_stream(ROLLOUTS * 2)
        await anext(stream)
        return stream, client.session()

    async def go_on(stream: Any, session: Any) -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            await asyncio.wait_for(anext(stream), HANG)
        for use in (lambda: session.submit(ROLLOUTS), session.collect):
            with pytest.raises(RuntimeError, match="event loop"):
                await asyncio.wait_for(_awaited(use), HANG)

    stream, session = loops[0].run_until_complete(begin())
    loops[1].run_until_complete(go_on(stream, session))
    loops[0].run_until_complete(client.aclose())
    for loop in loops:
        loop.close()


async def _awaited(use: Callable[[], Any]) -> None:
    found = use()
    if asyncio.iscoroutine(found):
        await found


def test_a_scorer_on_many_loops_and_threads(service: Service) -> None:
    scorer = Scorer(service.url)
    found: queue.SimpleQueue[int] = queue.SimpleQueue()
    uses = [score, score_on_a_loop] * 4
    threads = [threading.Thread(target=lambda u=u: found.put(u(scorer))) for u in uses]
    for thread in threads:
        thread.start()
    assert [found.get(timeout=HANG) for _ in uses] == [1] * len(uses)
    scorer.close()
    scorer.close()


def test_closing_ends_a_call_of_another_thread() -> None:
    with stub(lambda *_: (503, {"Retry-After": "30"}, b"")) as server:
        client = CreditClient(server.url)
        found: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

        def call() -> None:
            try:
                client.credit(ROLLOUTS)
            except BaseException as error:
                found.put(error)

        threading.Thread(target=call).start()
        eventually(lambda: len(server.seen) == 1)
        client.close()
        assert "the client was closed" in str(found.get(timeout=HANG))
        session_raises(server.url)


def session_raises(url: str) -> None:
    async def story() -> None:
        client = AsyncCreditClient(url)
        session = client.session()
        await client.aclose()
        session.submit(ROLLOUTS)
        with pytest.raises(RuntimeError, match="the client is closed"):
            await asyncio.wait_for(session.collect(), HANG)

    asyncio.run(story())


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_client_that_was_pickled_has_its_settings(
    service: Service, monkeypatch: pytest.MonkeyPatch, pickler: Any
) -> None:
    monkeypatch.setenv("CAPO_URL", service.url)
    monkeypatch.setenv("CAPO_API_KEY", "k")
    client = CreditClient(batch_size=3, concurrency=2, retry=RetryPolicy(attempts=1))
    scorer = Scorer(tokenizer=tokenizer("gpt2"), tokenizer_name="gpt2", deadline=7)
    assert credit(client) == 1
    monkeypatch.setenv("CAPO_URL", "http://127.0.0.1:9")  # as it may be where it arrives
    monkeypatch.delenv("CAPO_API_KEY")
    for other in (pickler.loads(pickler.dumps(client)), copy.copy(client), copy.deepcopy(client)):
        assert (other.url, other.batch_size, other.concurrency) == (service.url, 3, 2)
        assert other._client._settings == client._client._settings
        assert credit(other) == 1
        other.close()
    assert credit(client) == 1, "which has nothing to do with what its copies do"
    again = pickler.loads(pickler.dumps(scorer))
    assert (again.deadline, again.by_name, again.url) == (7, True, service.url)
    assert score(again) == 1
    asynchronous = pickler.loads(pickler.dumps(AsyncCreditClient(service.url)))
    assert credit_on_a_loop(asynchronous) == 1
    mine = AsyncCreditClient("http://x", transport=httpx.AsyncHTTPTransport())
    with pytest.raises(TypeError, match="a custom transport"):
        pickler.dumps(mine)


@pytest.mark.parametrize("closing", ["close", "forget"])
def test_a_thousand_clients_leave_nothing_behind(closing: str) -> None:
    """Nor anything to the garbage collector alone, which would warn."""
    strict = ["-W", "error::ResourceWarning"]
    with stub(lambda method, path, body: credited(body)) as server:
        done = subprocess.run(
            [sys.executable, *strict, kit_client.__file__, server.url, closing],
            capture_output=True,
            text=True,
            timeout=3 * HANG,
        )
    assert done.stderr == ""
    descriptors, threads = map(int, done.stdout.split())
    assert descriptors < 20 and threads < 5


def test_a_call_from_the_client_s_own_thread_raises(service: Service) -> None:
    """As from a finalizer that the garbage collector runs there."""
    with CreditClient(service.url) as client:
        found: list[BaseException | None] = []

        async def inside() -> None:
            try:
                client.info()
            except BaseException as error:
                found.append(error)
            client.close()

        future = client._work.start(inside())
        with suppress(BaseException):  # closing ends what runs, this too
            future.result(timeout=HANG)
        assert isinstance(found[0], RuntimeError) and not isinstance(found[0], CapoError)
