"""What the client tries again, for how long, and what it says; over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy
import pytest
import torch
import trustme

import capo_client
import capo_wire as wire
from capo_client import AsyncCreditClient, CreditClient, RetryPolicy
from capo_client._http import explain
from capo_client.adapters.scoring import Scorer
from capo_client.cli.ports import free_port
from capo_client.retry import WaitLog
from kit_scripted import ScriptedEngine
from kit_service import Service, eventually, serving, settings
from kit_stub import Answer, credited, page, problem, stub

SOON = RetryPolicy(base=0.01, longest=0.1)
ROLLOUTS: list[dict[str, Any]] = [{"question": "q", "response": "a", "outcome": 1}]
LONG = 60  # seconds that no test needs


def then_credited(*first: Answer) -> Callable[[str, str, bytes], Answer]:
    left = list(first)

    def answer(method: str, path: str, body: bytes) -> Answer:
        return left.pop(0) if left else credited(body)

    return answer


def served(url: str, **given: Any) -> int:
    with CreditClient(url, retry=SOON, **given) as client:
        return len(client.credit(ROLLOUTS, deadline=LONG).credited)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 520, 521, 522, 523, 524, 525, 529])
def test_what_a_proxy_says_meanwhile_is_tried_again(status: int) -> None:
    with stub(then_credited(*[page(status)] * 15)) as server:
        assert served(server.url) == 1
    assert len(server.seen) == 16, "more often than any count that there was"


def test_what_the_service_says_itself() -> None:
    with stub(then_credited(problem(408, "request-timeout"), problem(503))) as server:
        assert served(server.url) == 1
    for status, kind in (
        (502, capo_client.ProblemResponseError),
        (403, capo_client.PermissionDeniedError),
        (404, capo_client.NotFoundError),
        (405, capo_client.MethodNotAllowedError),
        (413, capo_client.RequestTooLargeError),
        (415, capo_client.UnsupportedMediaTypeError),
    ):
        with stub(then_credited(problem(status))) as server, pytest.raises(kind) as caught:
            served(server.url)
        assert len(server.seen) == 1 and type(caught.value) is kind
        assert f"{server.url}/credit" in str(caught.value)


def test_a_redirect_is_told_and_not_followed() -> None:
    there = {"Location": "https://judge/credit"}
    with (
        stub(lambda *_: (301, there, b"")) as server,
        pytest.raises(capo_client.ProblemResponseError, match=r"301.*https://judge/credit"),
    ):
        served(server.url)


def test_a_judge_that_comes_back_has_lost_no_rollouts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens for more attempts than were ever counted; then the service is there."""
    monkeypatch.setattr("capo_client.retry._LOG_INTERVAL", 3600.0)  # however slow the machine is
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(served(url)))
    with caplog.at_level(logging.WARNING, "capo_client"):
        thread.start()
        eventually(lambda: f"waiting for {url} (attempt 2, " in caplog.text)
        time.sleep(1.5)  # some 25 attempts
        assert not found
        with stub(then_credited(problem(503)), port):
            thread.join(LONG)
    assert found == [1]
    assert caplog.text.count("waiting for") == 1, "a line now and then, not one for each attempt"
    assert "Connection refused" in caplog.text


def test_the_log_says_it_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    log = WaitLog(lambda: clock[0])
    for second in range(25):
        clock[0] = float(second + 1)
        log.waiting("http://judge", second + 2, "refused")
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"waiting for http://judge (attempt {n}): refused" for n in (2, 12, 22)]
    clock[0] = 100.0
    log.waiting("http://judge", 30, "http://judge is full", 7.6)
    assert caplog.messages[-1] == "waiting for http://judge (attempt 30, 8 s left): is full"


def test_a_deadline_ends_it_with_the_url_and_the_cause() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with CreditClient(url, retry=SOON) as client:
        with pytest.raises(capo_client.DeadlineExceededError) as caught:
            client.credit(ROLLOUTS, deadline=0.5)
        for part in (url, "Connection refused", "is the service running?", "CAPO_URL"):
            assert part in str(caught.value)
        with pytest.raises(capo_client.UnavailableError, match=f"{url}.*Connection refused"):
            client.info()
        with pytest.raises(capo_client.UnavailableError, match=f"{url}.*Connection refused"):
            client.wait_until_ready(0.1)
        assert not client.is_ready()
        with pytest.raises(capo_client.ConfigurationError, match="not a number"):
            client.credit(ROLLOUTS, deadline=float("nan"))
    with pytest.raises(capo_client.UnavailableError, match=f"{url}.*capo serve"):
        Scorer(url)


def test_without_a_deadline_it_waits_and_asks_for_the_longest() -> None:
    with (
        stub(then_credited(*[page(503)] * 5)) as server,
        CreditClient(server.url, retry=SOON) as client,
    ):
        for deadline in (None, float("inf"), 1e9):
            assert len(client.credit(ROLLOUTS, deadline=deadline).credited) == 1
    asked = {json.loads(body)["deadline_ms"] for _, _, body in server.seen}
    assert asked == {24 * 3600 * 1000}, "the longest that the wire knows"


def test_retry_after_that_is_too_late_ends_at_once() -> None:
    late = (503, {"Retry-After": "3600"}, b"")
    with (
        stub(lambda *_: late) as server,
        CreditClient(server.url) as client,
        pytest.raises(capo_client.DeadlineExceededError),
    ):
        client.credit(ROLLOUTS, deadline=20)
    assert len(server.seen) == 1


# What no retry mends


def resolver(monkeypatch: pytest.MonkeyPatch, code: int) -> list[int]:
    asked: list[int] = []
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **named: Any) -> Any:
        if host in ("127.0.0.1", b"127.0.0.1"):
            return real(host, *rest, **named)
        asked.append(1)
        raise socket.gaierror(code, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_an_unknown_host_is_told_long_before_the_deadline(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    asked = resolver(monkeypatch, code)
    monkeypatch.setattr("capo_client._http._UNKNOWN_HOST_SECONDS", 0.3)
    with CreditClient("http://judge.invalid:8000", retry=SOON) as client:
        for call in (
            lambda: client.credit(ROLLOUTS, deadline=24 * 3600),
            lambda: client.wait_until_ready(24 * 3600),
        ):
            with pytest.raises(capo_client.UnavailableError) as caught:
                call()
            assert "http://judge.invalid:8000" in str(caught.value)
            assert "the host 'judge.invalid' is unknown" in str(caught.value)
    assert len(asked) > 2, "a name server may have a bad moment"


def test_a_host_that_was_known_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Kubernetes service, which has no address while none of its pods is ready."""
    monkeypatch.setattr("capo_client._http._UNKNOWN_HOST_SECONDS", 0.0)
    known = [True]
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **named: Any) -> Any:
        if host in ("judge.test", b"judge.test"):
            if not known[0]:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            host = "127.0.0.1"
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with stub(lambda method, path, body: credited(body)) as server:
        url = server.url.replace("127.0.0.1", "judge.test")
        with CreditClient(url, retry=SOON) as client:
            assert len(client.credit(ROLLOUTS).credited) == 1
            client._work.run(drop_connections(client._client))
            known[0] = False
            threading.Timer(0.5, lambda: known.__setitem__(0, True)).start()
            assert len(client.credit(ROLLOUTS, deadline=LONG).credited) == 1


async def drop_connections(client: AsyncCreditClient) -> None:
    local = client._sender.connections._by_loop.pop(asyncio.get_running_loop())
    await local.http.aclose()


@contextmanager
def tls_server(answer: Callable[..., Answer], authority: trustme.CA) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with stub(answer, tls=context) as server:
        yield server.url.replace("http:", "https:")


def test_a_certificate_that_is_not_trusted_is_told_at_once(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with tls_server(lambda m, p, body: credited(body), authority) as url:
        with CreditClient(url) as client:
            for call in (
                lambda: client.credit(ROLLOUTS, deadline=24 * 3600),
                lambda: client.wait_until_ready(24 * 3600),
                client.info,
            ):
                with pytest.raises(
                    capo_client.UnavailableError, match=f"certificate of {url}.*CAPO_CA_FILE"
                ):
                    call()
        assert served(url, ca=tmp_path / "ca.pem") == 1


def test_a_scheme_in_capitals_is_verified_too() -> None:
    with (
        tls_server(lambda m, p, body: credited(body), trustme.CA()) as url,
        pytest.raises(capo_client.UnavailableError, match="is not trusted"),
    ):
        served(url.replace("https:", "HTTPS:"))


def test_a_server_without_tls_is_told_at_once() -> None:
    with stub(lambda m, p, body: credited(body)) as server:
        url = server.url.replace("http:", "https:")
        with (
            CreditClient(url) as client,
            pytest.raises(capo_client.UnavailableError, match=r"no TLS connection.*write http://"),
        ):
            client.credit(ROLLOUTS, deadline=24 * 3600)


def test_a_tls_connection_that_breaks_is_tried_again_where_the_service_has_answered() -> None:
    error = httpx.ReadError("lost")
    error.__cause__ = ssl.SSLError(1, "[SSL: APPLICATION_DATA_AFTER_CLOSE_NOTIFY]")
    assert explain(error, "https://judge:8000", None, reached=True).retry_seconds == math.inf
    assert explain(error, "https://judge:8000", None, reached=False).retry_seconds == 0


def test_with_replicas_hope_is_given_up_only_where_all_are_hopeless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("capo_client._http._UNKNOWN_HOST_SECONDS", 0.0)
    resolver(monkeypatch, socket.EAI_NONAME)
    with stub(then_credited(*[page(503)] * 12)) as server:
        assert served(f"http://nowhere.invalid,{server.url}") == 1
    with (
        CreditClient("http://nowhere.invalid,http://no.invalid", retry=SOON) as client,
        pytest.raises(capo_client.UnavailableError, match="is unknown"),
    ):
        client.credit(ROLLOUTS, deadline=24 * 3600)


# Proxies


def test_a_proxy_is_named_and_this_machine_never_goes_through_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with stub(lambda *_: page(403)) as proxy, stub(lambda m, p, b: credited(b)) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert served(server.url) == 1 and not proxy.seen
        with pytest.raises(capo_client.PermissionDeniedError) as caught:
            served("http://10.9.9.9:8000")
        assert proxy.seen
        for part in ("http://10.9.9.9:8000", f"{proxy.url} (http_proxy)", "NO_PROXY"):
            assert part in str(caught.value)
        with (
            CreditClient("http://10.9.9.9:8000") as client,
            pytest.raises(capo_client.PermissionDeniedError, match="http_proxy"),
        ):
            client.info()
    dead = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("http_proxy", dead)
    with CreditClient("http://10.9.9.9:8000", retry=SOON) as client:
        with pytest.raises(capo_client.UnavailableError) as lost:
            client.info()
        with pytest.raises(capo_client.DeadlineExceededError) as late:
            client.credit(ROLLOUTS, deadline=0.3)
    for error in (lost.value, late.value):
        assert f"{dead} (http_proxy)" in str(error) and "add 10.9.9.9 to NO_PROXY" in str(error)


# Concurrency and deadlines


class Gate:
    """An answer that waits to be let through, and counts how many wait at once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str, body: bytes) -> Answer:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.open.wait(LONG)
        with self._lock:
            self.inside -= 1
        return credited(body)


async def test_concurrency_holds_for_the_client_over_calls_and_sessions() -> None:
    gate = Gate()
    with stub(gate) as server:
        async with (
            AsyncCreditClient(server.url, concurrency=2, batch_size=1) as client,
            client.session() as one,
            client.session() as other,
        ):
            for session in (one, other):
                for _ in range(6):
                    session.submit(ROLLOUTS)
            calls = [asyncio.create_task(client.credit(ROLLOUTS * 3)) for _ in range(3)]
            while gate.inside < 2:
                await asyncio.sleep(0.01)
            gate.open.set()
            found = [await one.collect(), await other.collect(), *await asyncio.gather(*calls)]
    assert [len(batch.credited) for batch in found] == [6, 6, 3, 3, 3]
    assert gate.most == 2 and len(server.seen) == 21


def test_it_holds_over_threads_too() -> None:
    gate = Gate()
    with stub(gate) as server, CreditClient(server.url, concurrency=1, batch_size=1) as client:
        threads = [threading.Thread(target=client.credit, args=(ROLLOUTS * 2,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: gate.inside == 1)
        time.sleep(0.3)  # in which the others' requests would come
        gate.open.set()
        for thread in threads:
            thread.join(LONG)
    assert gate.most == 1 and len(server.seen) == 8


async def test_the_deadline_that_is_sent_is_what_is_left_then() -> None:
    gate = Gate()
    with stub(gate) as server:
        async with AsyncCreditClient(server.url, concurrency=1) as client:
            first = asyncio.create_task(client.credit(ROLLOUTS, deadline=100))
            while not gate.inside:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(client.credit(ROLLOUTS, deadline=100))
            await asyncio.sleep(0.5)  # while it waits for its turn
            gate.open.set()
            await asyncio.gather(first, second)
    left = [json.loads(body)["deadline_ms"] for _, _, body in server.seen]
    assert left[0] <= 100_000 and left[1] <= 99_500, "what passed before the turn is not asked for"


async def test_a_deadline_holds_while_others_have_all_turns() -> None:
    gate = Gate()
    with stub(gate) as server:
        async with AsyncCreditClient(server.url, concurrency=1) as client:
            first = asyncio.create_task(client.credit(ROLLOUTS))
            while not gate.inside:
                await asyncio.sleep(0.01)
            with pytest.raises(capo_client.DeadlineExceededError, match="concurrency"):
                await asyncio.wait_for(client.credit(ROLLOUTS, deadline=0.1), LONG)
            gate.open.set()
            assert len((await first).credited) == 1


def test_a_server_that_stalls_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capo_client._request_state._GRACE_SECONDS", 0.1)
    gate = Gate()
    with stub(gate) as server, CreditClient(server.url) as client:
        with pytest.raises(
            capo_client.DeadlineExceededError, match="no response before the deadline"
        ):
            client.credit(ROLLOUTS, deadline=0.2)
        gate.open.set()


# What is sent, and what comes back


def test_no_character_but_a_newline_ends_a_line(service: Service) -> None:
    texts = [
        f"Error:{c} 4{c}{c} #### 4{c}"
        for c in (
            "\u2028",
            "\u2029",
            "\u0085",
            "\x0b",
            "\x0c",
            "\x1c",
            "\x1d",
            "\x1e",
            "\r",
            "\r\n",
        )
    ]
    sent = [{"question": "q", "response": text, "reference": "#### 4"} for text in texts]
    with CreditClient(service.url, retry=RetryPolicy(attempts=1)) as client:
        batch = client.credit(sent, include=["response", "token_rewards", "critiques"])
    assert [each.response for each in batch.raise_for_errors().credited] == texts


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
async def test_lines_are_the_same_however_they_arrive(size: int) -> None:
    from capo_client._http import lines

    text = '{"a": "\u2028\u0085ü"}\n\n{"b": "' + "x" * 5000 + '"}\nlast'.replace("\r", "")
    data = text.encode()

    class Response:
        async def aiter_bytes(self) -> Any:
            for start in range(0, len(data), size):
                yield data[start : start + size]

    found = [line async for line in lines(Response())]  # type: ignore[arg-type]
    assert found == data.split(b"\n")


@pytest.mark.parametrize("kind", [numpy.array, torch.tensor, list])
def test_a_rollout_that_cannot_be_sent_fails_alone(service: Service, kind: Any) -> None:
    good = {
        "question": "q",
        "response": "abc",
        "token_offsets": kind([[0, 1], [1, 3]]),
        "outcome": 1,
    }
    bad: list[tuple[Any, str | None]] = [
        (good | {"outcome": float("nan")}, "outcome"),
        (good | {"response": b"abc"}, "response"),
        (good | {"reference": {1, 2}}, "reference"),
        (good | {"token_offsets": kind([[0.5, 1.5]])}, "token_offsets"),
        (None, None),
        ("text", None),
    ]
    sent = [each for rollout, _ in bad for each in (good, rollout)]
    with CreditClient(service.url, batch_size=5) as client:
        batch = client.credit(sent)
    assert len(batch) == len(sent)
    for position, result in enumerate(batch):
        if position % 2 == 0:
            assert isinstance(result, wire.Credited) and len(result.token_rewards or []) == 2
        else:
            field = bad[position // 2][1]
            assert isinstance(result, wire.Failed) and result.error.status == 422
            assert (result.error.field or "").partition("[")[0] == (field or "")
            assert result.id == str(position)


def test_only_bad_rollouts_are_no_exception_and_ask_nobody() -> None:
    with CreditClient(f"http://127.0.0.1:{free_port()}") as client:
        [result] = client.credit([{"question": "q", "response": b"x", "id": "mine"}])
    assert isinstance(result, wire.Failed) and result.id == "mine"


def test_connections_are_let_go_before_the_server_closes_them(tmp_path: Path) -> None:
    from capo_client.connections import _KEEP_ALIVE_SECONDS
    from capo_service.api.app import create_app
    from capo_service.api.server import server_config

    given = settings(tmp_path)
    config = server_config(given, create_app(given, ScriptedEngine()))
    assert config.timeout_keep_alive > _KEEP_ALIVE_SECONDS + 1
    with ExitStack() as stack:
        service = stack.enter_context(serving(ScriptedEngine(), given))
        client = stack.enter_context(CreditClient(service.url, retry=RetryPolicy(attempts=1)))
        for _ in range(3):
            assert len(client.credit(ROLLOUTS).credited) == 1
