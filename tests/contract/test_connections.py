"""Callers that are slow, half gone or gone, over real sockets."""

from __future__ import annotations

import json
import logging
import re
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from kit_scripted import ScriptedEngine
from kit_service import Background, Service, body, eventually, serving, settings

HEAD = b"POST /credit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def connect(service: Service) -> socket.socket:
    parts = urlsplit(service.url)
    found = socket.create_connection((parts.hostname, parts.port), timeout=20)
    return found


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def test_slow_headers_are_cut_off_and_nobody_else_notices(tmp_path: Path) -> None:
    with (
        serving(ScriptedEngine(), settings(tmp_path, read_seconds=1)) as service,
        ExitStack() as all_,
    ):
        loris = [all_.enter_context(connect(service)) for _ in range(200)]
        for connection in loris[:100]:  # the others send nothing at all
            connection.sendall(HEAD)
        kept_alive = all_.enter_context(httpx.Client())
        assert kept_alive.get(f"{service.url}/health/live").status_code == 200
        assert httpx.post(f"{service.url}/credit", json=body()).status_code == 200
        for connection in loris:
            assert until_closed(connection) == b""
        # A second request on a connection is waited for no longer than the first.
        again = all_.enter_context(connect(service))
        again.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b'"live"' not in answer:
            answer += again.recv(65536)
        again.sendall(HEAD)
        assert until_closed(again) == b""


def test_a_slow_body_is_refused(tmp_path: Path) -> None:
    with serving(ScriptedEngine(), settings(tmp_path, read_seconds=0.5)) as service:
        with connect(service) as connection:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + b"{" * 10)
            answer = until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 408") and b"10 bytes of the body" in answer
        assert b"application/problem+json" in answer
        text = httpx.get(f"{service.url}/metrics").text
        assert 'capo_requests_total{status="408"} 1.0' in text


def test_a_slow_judge_is_none_of_the_callers_fault(tmp_path: Path) -> None:
    """What is waited for after the request has come takes no time of it."""
    engine = ScriptedEngine(delay=1.5)
    with serving(engine, settings(tmp_path, read_seconds=0.5)) as service:
        assert httpx.post(f"{service.url}/credit", json=body(), timeout=20).status_code == 200


def test_half_closed_and_gone_callers_free_the_judge(tmp_path: Path) -> None:
    engine = ScriptedEngine(delay=60)
    text = json.dumps(body()).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(text) + text
    with serving(engine, settings(tmp_path)) as service:
        with connect(service) as half:
            half.sendall(request)
            eventually(lambda: engine.running == 4)
            half.shutdown(socket.SHUT_WR)
            eventually(lambda: engine.running == 0)
            assert until_closed(half) == b""
        with connect(service) as gone:
            gone.sendall(request)
            eventually(lambda: engine.running == 4)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # RST
        eventually(lambda: engine.running == 0 and service.service.accepted == 0)


def test_a_caller_that_takes_nothing_loses_its_place(tmp_path: Path) -> None:
    given = settings(tmp_path, read_seconds=1, max_queued_tokens=2_000_000)
    long = {"question": "q", "response": "x" * 150_000, "outcome": 1}
    request = body(*({**long, "outcome": n / 100} for n in range(40)), include=["response"])
    text = json.dumps(request).encode()
    with serving(ScriptedEngine(), given) as service, connect(service) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(HEAD + b"Accept: application/x-ndjson\r\n")
        lazy.sendall(b"Content-Length: %d\r\n\r\n" % len(text) + text)
        eventually(lambda: service.service.accepted == 40)
        eventually(lambda: service.service.accepted == 0)
        assert httpx.post(f"{service.url}/credit", json=body()).status_code == 200


def test_rollouts_count_when_they_are_done_even_if_the_caller_leaves(tmp_path: Path) -> None:
    long = {"question": "q", "response": "x" * 150_000}
    request = body(*({**long, "outcome": n / 100} for n in range(40)), include=["response"])
    text = json.dumps(request).encode()

    def metrics() -> str:
        return httpx.get(f"{service.url}/metrics").text

    def judged() -> float:
        return sum(map(float, re.findall(r"capo_rollouts_judged_total{.*} (.*)", metrics())))

    with serving(ScriptedEngine(), settings(tmp_path, max_queued_tokens=2_000_000)) as service:
        with connect(service) as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.sendall(HEAD + b"Accept: application/x-ndjson\r\n")
            lazy.sendall(b"Content-Length: %d\r\n\r\n" % len(text) + text)
            eventually(lambda: judged() == 40)
            assert service.service.accepted == 40, "the answer is not read to its end"
        eventually(lambda: service.service.accepted == 0)
        assert 'capo_rollouts_total{key="anonymous",status="200"} 40.0' in metrics()


def test_garbage_is_answered_or_closed_at_once(tmp_path: Path) -> None:
    with serving(ScriptedEngine(), settings(tmp_path)) as service:
        background = Background(service, body())
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 4096, b"GET\r\n\r\n",
            b"POST /credit HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"POST /credit HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        ):  # fmt: skip
            with connect(service) as connection:
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                answer = until_closed(connection)  # or a time-out of the socket, which fails
                assert answer == b"" or answer.split()[1] in (b"400", b"404", b"408", b"415"), (
                    answer
                )
        assert background.wait().status_code == 200


def request(path: str, accept: str, count: int) -> bytes:
    rollouts = [{"question": "q", "response": f"a {i}", "outcome": 1} for i in range(count)]
    sent: dict[str, object] = {
        "/credit": body(*rollouts),
        "/slime": {"prompt": "q", "response": "1", "label": "1"},
        "/openrlhf": {"query": ["q1"], "prompts": ["q"], "labels": ["1"]},
    }
    text = json.dumps(sent[path]).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Accept: {accept}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/credit", "application/json"),
        ("/credit", "application/x-ndjson"),
        ("/slime", "*/*"),
        ("/openrlhf", "*/*"),
    ],
)
def test_a_caller_that_hangs_up_is_no_failure_of_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, accept: str
) -> None:
    caplog.set_level(logging.INFO)
    engine = ScriptedEngine(delay=60)
    whole = request(path, accept, 3)
    with serving(engine, settings(tmp_path)) as service:
        with connect(service) as waiting:
            waiting.sendall(whole)
            eventually(lambda: engine.running > 0)
        with connect(service) as sending:  # hangs up in the middle of its body
            sending.sendall(whole[:-5])
        eventually(lambda: service.service.accepted == 0)
        counted = 'capo_requests_total{status="499"} 2.0'
        eventually(lambda: counted in httpx.get(f"{service.url}/metrics").text)
        assert 'status="5' not in httpx.get(f"{service.url}/metrics").text
    if path == "/credit":
        assert caplog.text.count("POST /credit 499") == 2
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_caller_that_hangs_up_in_a_stream_is_told_in_the_access_log_and_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = ScriptedEngine(delay=0.2)
    with serving(engine, settings(tmp_path, max_running=1)) as service:
        with connect(service) as connection:
            connection.sendall(request("/credit", "application/x-ndjson", 50))
            assert connection.recv(12) == b"HTTP/1.1 200"
        eventually(lambda: service.service.accepted == 0 and engine.running == 0)
        eventually(lambda: "ended client disconnected" in caplog.text)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
