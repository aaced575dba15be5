"""`capo doctor`: what it finds at an address, and what it says to change."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
import typer

from capo_client import errors
from capo_client.cli.doctor import address, rollouts
from capo_client.cli.doctor.report import Report
from capo_client.cli.doctor.run import doctor
from capo_client.cli.ports import free_port
from capo_service.engine.base import CritiqueSampling, JudgeLimits
from capo_service.scheduling.api_keys import make_key
from capo_service.settings import Settings
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings
from kit_stub import Answer, credited, page, stub

FALSE = re.compile(r"^(\d+) \+ (\d+) = (\d+)$", re.MULTILINE)


@dataclass
class Examined:
    code: int
    checks: dict[str, tuple[str, str, str]]  # by name: status, detail, advice
    measured: dict[str, float]

    def failed(self, name: str, code: int, *words: str) -> None:
        """The check failed, was the last one, and says all this."""
        assert self.code == code, self.checks
        status, *texts = self.checks[name]
        assert status == "failed" and texts[1], "something to change is named"
        assert list(self.checks)[-1] == name, "what needs this is not tried"
        for word in words:
            assert word in " -> ".join(texts), texts

    def warns(self, name: str, *words: str) -> None:
        status, *texts = self.checks[name]
        assert status == "warning" and texts[1], self.checks
        for word in words:
            assert word in " -> ".join(texts), texts


def checked(report: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    return {c["check"]: (c["status"], c["detail"], c["advice"]) for c in report["checks"]}


def examine(capsys: pytest.CaptureFixture[str], url: str, **given: Any) -> Examined:
    capsys.readouterr()
    with pytest.raises(typer.Exit) as ended:
        doctor(url, as_json=True, **given)
    report = json.loads(capsys.readouterr().out)
    return Examined(ended.value.exit_code, checked(report), report["measured"])


def finds_false_sums(prompt: str, sampling: CritiqueSampling) -> str:
    """A judge that checks the first equation of the doctor's stories."""
    found = [m for m in FALSE.findall(prompt) if int(m[0]) + int(m[1]) != int(m[2])]
    return json.dumps({"analysis": "sums", "incorrect_steps": [0] if found else []})


def test_a_service_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = settings(tmp_path, result_cache="memory", live_rollouts=10)
    with serving(ScriptedEngine(finds_false_sums), given) as service:
        found = examine(capsys, service.url, tokenizer="gpt2")
    assert found.code == 0
    assert {status for status, _, _ in found.checks.values()} == {"ok"}, found.checks
    assert "judge" in found.checks and "queue" in found.checks and "versions" in found.checks
    assert "scripted" in found.checks["judge"][1]
    assert "one reward for each of 14 tokens" in found.checks["rollout"][1]
    assert "one reward for each of" in found.checks["token ids"][1]
    assert "marked the wrong step (0), and no other" in found.checks["verdict"][1]
    assert "came from the result cache" in found.checks["cache"][1]
    assert found.measured["rollouts"] == 32, "none of them came from the cache"
    assert found.measured["seconds_for_1024_rollouts"] == pytest.approx(
        1024 / found.measured["rollouts_per_second"], rel=0.05, abs=0.1
    )
    assert "known-answer probe" in found.checks["monitoring"][1]
    assert "live view" not in found.checks["monitoring"][1]


def test_settings_that_it_names_exist(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    found = examine(capsys, service.url)
    advice = " ".join(texts[2] for texts in found.checks.values())
    named = re.findall(r"--set (\w+)=", advice)
    assert named and set(named) <= Settings.model_fields.keys()
    assert "the result cache is off" in found.checks["cache"][1]


def test_a_tokenizer_that_is_not_served(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    found = examine(capsys, service.url, tokenizer="policy")
    assert found.code == 1
    status, detail, advice = found.checks["tokenizers"]
    assert status == "failed" and "gpt2, llama2" in detail
    assert "capo serve --tokenizer policy=PATH" in advice and "token_offsets" in advice
    assert found.checks["throughput"][0] == "ok", "all other checks are made"
    assert "token ids" not in found.checks


def test_a_judge_that_is_wrong_or_not_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = ScriptedEngine(model="symbolic")
    with serving(engine, settings(tmp_path)) as service:
        found = examine(capsys, service.url)
        assert found.code == 0, "warnings only"
        found.warns("verdict", "marked no step; the wrong step is 0", "capo eval")
        found.warns("judge", "not for training", "7B")
        replies = iter("{'" if n % 4 else '{"incorrect_steps": [1]}' for n in range(1 << 20))
        engine.script = lambda prompt, sampling: next(replies)
        found = examine(capsys, service.url)
        found.warns("critiques", "3 of 4 critiques could not be parsed", "capo prompt")
        found.warns("verdict", "marked step 1; the wrong step is 0")
        engine.script = lambda prompt, sampling: "no verdict"
        examine(capsys, service.url).failed("rollout", 1, "502", "could be parsed")


def test_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys, entries = {}, ""
    for name, roles in (("all", '"credit", "info"'), ("trainer", '"credit"'), ("ops", '"info"')):
        keys[name], entry = make_key(name)
        entries += entry.replace('"credit", "info"', roles) + "\n"
    (tmp_path / "keys.toml").write_text(entries)
    given = settings(tmp_path, api_keys_file=tmp_path / "keys.toml")
    with serving(ScriptedEngine(finds_false_sums), given) as service:
        examine(capsys, service.url).failed("key", 1, "requires an API key", "CAPO_API_KEY")
        wrong = examine(capsys, service.url, api_key="no")
        wrong.failed("key", 1, "does not accept this API key", "api_keys_file")
        right = examine(capsys, service.url, api_key=f" {keys['all']}\n")
        assert right.code == 0 and right.checks["key"][1] == "the API key is accepted"
        trainer = examine(capsys, service.url, api_key=keys["trainer"])
        trainer.warns("key", "lacks the role info")
        assert trainer.code == 0 and "judge" not in trainer.checks
        assert trainer.checks["throughput"][0] == "ok"
        ops = examine(capsys, service.url, api_key=keys["ops"])
        ops.failed("rollout", 1, "403", "lacks the role credit")


def test_a_key_that_is_not_asked_for(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not needed" in examine(capsys, service.url, api_key="k").checks["key"][1]
    monkeypatch.setattr("capo_client.cli.doctor.service.is_local", lambda url: False)
    examine(capsys, service.url).warns("key", "any client that reaches", "--api-key")
    assert address.is_local("http://localhost:1") and address.is_local("http://[::1]")
    assert not address.is_local("http://judge") and not address.is_local("http://10.0.0.1:8000")


class NeverLoaded(ScriptedEngine):
    async def start(self) -> JudgeLimits:
        await asyncio.Event().wait()
        raise AssertionError


def test_a_service_that_is_not_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(NeverLoaded(), settings(tmp_path), wait=False) as service:
        found = examine(capsys, service.url)
    found.failed("ready", 3, "not ready: the judge scripted", "take minutes to load")
    dead = ScriptedEngine()
    with serving(dead, settings(tmp_path)) as service:
        dead.kill()
        examine(capsys, service.url).failed("ready", 3, "dead", "restart")


def test_nothing_listens(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    refused = examine(capsys, url)
    refused.failed("port", 3, f"nothing listens on port {port}", f"capo serve --port {port}")
    examine(capsys, "http://judge.invalid:8000").failed("host", 3, "unknown", "CAPO_URL")
    monkeypatch.setattr(address, "_DEFAULT_PORT", int(service.url.rpartition(":")[2]))
    examine(capsys, url).failed("port", 3, f"use --url {service.url}")
    monkeypatch.setattr(address, "is_local", lambda url: False)
    monkeypatch.setattr(address, "_DEFAULT_PORT", port)
    examine(capsys, url).failed("port", 3, "--host 0.0.0.0")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), ("no answer from 127.0.0.1", "NetworkPolicy")),
        (OSError(113, "No route to host"), ("No route to host", "network")),
    ],
)
def test_nothing_answers(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    words: tuple[str, ...],
) -> None:
    def connect(*_: Any, **__: Any) -> socket.socket:
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    examine(capsys, "http://127.0.0.1:8000").failed("port", 3, *words)


def test_tls(
    service: Service,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = trustme.CA()
    chain, private, ca = (tmp_path / name for name in ("chain.pem", "key.pem", "ca.pem"))
    authority.cert_pem.write_to_path(str(ca))
    server = authority.issue_cert("127.0.0.1")
    server.cert_chain_pems[0].write_to_path(str(chain))
    server.private_key_pem.write_to_path(str(private))
    plain = service.url.replace("http:", "https:")
    examine(capsys, plain).failed("TLS", 3, "does not use TLS", f"use --url {service.url}")
    given = {"tls_cert": chain, "tls_key": private}
    with serving(ScriptedEngine(finds_false_sums), settings(tmp_path, **given)) as secure:
        wrong = secure.url.replace("https:", "http:")
        examine(capsys, wrong).failed("HTTP", 3, "speaks TLS", f"use --url {secure.url}")
        examine(capsys, secure.url).failed("TLS", 3, "is not trusted", "CAPO_CA_FILE")
        monkeypatch.setenv("CAPO_CA_FILE", str(ca))
        trusted = examine(capsys, secure.url)
        assert trusted.code == 0 and trusted.checks["TLS"][0] == "ok"
    with serving(ScriptedEngine(), settings(tmp_path, **given, tls_client_ca=ca)) as mutual:
        asked = examine(capsys, mutual.url)
        asked.failed("TLS", 3, "asks for client certificates", "CAPO_CERT_FILE")


def as_json(status: int, **content: Any) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


VLLM: dict[str, Answer] = {
    "/v1/models": as_json(200, object="list", data=[{"id": "Qwen/Q", "owned_by": "vllm"}]),
    "/version": as_json(200, version="0.32.0"),
}
LOCKED: dict[str, Answer] = {
    "/v1/models": as_json(401, error="Unauthorized"),
    "/version": as_json(200, version="0.32.0"),
}
OTHER: dict[str, Answer] = {
    "/v1/models": as_json(200, object="list", data=[{"id": "m", "owned_by": "organization"}])
}
HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE: dict[str, Answer] = {"/info": (200, HTML, b"<html><title>\n Grafana </title></html>")}
MOVED: dict[str, Answer] = {"/info": (302, {"Location": "https://judge/info"}, b"")}
GATEWAY: dict[str, Answer] = {"/info": page(502)}
UNKNOWN: dict[str, Answer] = {"/info": as_json(200, hello="world")}


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        (VLLM, 1, ["a vLLM server 0.32.0 with the model Qwen/Q", "--engine openai --base-url"]),
        (LOCKED, 1, ["a vLLM server 0.32.0", "--model NAME"]),
        (OTHER, 1, ["an OpenAI-compatible server (organization) with the model m"]),
        (PAGE, 1, ["a web page with the title 'Grafana' (status 200)", "correct the URL"]),
        (MOVED, 1, ["a redirect to https://judge/info"]),
        (GATEWAY, 3, ["a gateway answers 502", "start the service"]),
        (UNKNOWN, 1, ['GET /info returns 200 \'{"hello": "world"}\'']),
        ({}, 1, ["GET /info returns 404"]),
    ],
    ids=["vllm", "locked", "other", "page", "moved", "gateway", "unknown", "nothing"],
)
def test_something_else_answers(
    capsys: pytest.CaptureFixture[str], answers: dict[str, Answer], code: int, words: list[str]
) -> None:
    def answer(method: str, path: str, body: bytes) -> Answer:
        return answers.get(path, as_json(404, detail="Not Found"))

    with stub(answer) as server:
        examine(capsys, server.url, api_key="secret").failed("service", code, *words)
        assert {method for method, _, _ in server.seen} == {"GET"}


def test_the_key_is_sent_to_capo_services_only(capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[str] = []
    with listener(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", sent) as url:
        examine(capsys, url, api_key="secret").failed("service", 1, "another server")
    assert sent and "secret" not in "".join(sent)


@contextmanager
def listener(reply: bytes, received: list[str] | None = None) -> Iterator[str]:
    """A server that answers every connection with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        data = connection.recv(65536)
                        if received is not None:
                            received.append(data.decode("latin-1"))
                        if data:
                            connection.sendall(reply)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_a_server_that_does_not_speak_http(capsys: pytest.CaptureFixture[str]) -> None:
    with listener(b"SSH-2.0-OpenSSH_9.6\r\n") as url:
        examine(capsys, url).failed("HTTP", 3, url)


def test_a_path_too_many(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    found = examine(capsys, f"{service.url}/v1")
    found.failed("service", 1, "has no path /v1", f"use --url {service.url}")


def test_a_proxy_in_the_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    found = examine(capsys, "http://10.9.9.9:8000")
    assert "NO_PROXY=10.9.9.9" in found.checks["proxy"][2]
    found.failed("HTTP", 3, "HTTP_PROXY", "add 10.9.9.9 to NO_PROXY")
    with stub(lambda *_: page(503)) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        examine(capsys, "http://10.9.9.9:8000").failed("service", 3, "a gateway answers 503")


INFO: dict[str, Any] = {
    "service": "capo-credit",
    "version": "9.0",
    "wire": 1,
    "model": "m",
    "engine": "vllm",
    "context_length": 2048,
    "critique_style": "brief",
    "critique_format": "json",
    "tokenizers": [],
    "voting_methods": [],
    "reward_schemes": [],
    "segment_methods": [],
    "limits": {},
}


def fake(**changed: Any) -> Callable[[str, str, bytes], Answer]:
    """A service whose results have no steps."""

    def answer(method: str, path: str, body: bytes) -> Answer:
        if path == "/credit":
            return credited(body)
        if path == "/live":
            return as_json(404)
        return as_json(200, **({**INFO, **changed} if path == "/info" else {}))

    return answer


def test_another_version(capsys: pytest.CaptureFixture[str]) -> None:
    with stub(fake(wire=2)) as server:
        found = examine(capsys, server.url)
    found.failed("versions", 1, "service 9.0", "version 2 of the HTTP API", "the same version")
    with stub(fake(model=None)) as server:
        examine(capsys, server.url).failed("versions", 1, "cannot read", "the same version")


def test_results_that_do_not_fit_the_rollout(capsys: pytest.CaptureFixture[str]) -> None:
    with stub(fake()) as server:
        found = examine(capsys, server.url)
    assert found.code == 1
    assert found.checks["rollout"][0] == "failed" and "0 rewards" in found.checks["rollout"][1]
    found.warns("limits", "context length 2,048 tokens")
    assert "monitoring" not in found.checks, "an older service has no live view"


def test_a_judge_that_is_slow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(ScriptedEngine(delay=0.3), settings(tmp_path, max_running=1)) as service:
        slow = examine(capsys, service.url)
        slow.warns("throughput", "a training step of 1,024 such rollouts", "estimate", "replicas")
        assert slow.measured["rollouts_per_second"] < 4
    monkeypatch.setattr(rollouts, "_MEASURE_SECONDS", 0.5)
    with serving(ScriptedEngine(delay=1), settings(tmp_path)) as service:
        examine(capsys, service.url).warns("throughput", "none of 32 rollouts", "GPU")
    monkeypatch.setattr(rollouts, "_FIRST_SECONDS", 0.5)
    with serving(ScriptedEngine(delay=30), settings(tmp_path)) as service:
        found = examine(capsys, service.url)
    found.failed("rollout", 3, "run this command again")


def test_several_services(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(typer.Exit) as ended:
        doctor(f"{gone},{service.url}", as_json=True)
    reports = json.loads(capsys.readouterr().out)["services"]
    assert [report["url"] for report in reports] == [gone, service.url]
    assert ended.value.exit_code == 3
    assert [checked(report)["port"][0] for report in reports] == ["failed", "ok"]


def test_a_service_that_goes_away_during_the_measurement_is_reported(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise errors.UnavailableError("connection refused")

    monkeypatch.setattr(rollouts, "measure", gone)
    examine(capsys, service.url).failed("connection", 3, "connection refused", "again")


def test_a_url_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        doctor("127.0.0.1:8000")
    said = capsys.readouterr()
    assert ended.value.exit_code == 2 and said.out == ""
    assert said.err == (
        "capo doctor: the URL '127.0.0.1:8000' has no scheme: write http://127.0.0.1:8000\n"
    )


def test_lines_for_a_pipe_and_for_a_terminal(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(typer.Exit):
        doctor(service.url)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["ok", "url", service.url] and all(3 <= len(line) <= 4 for line in lines)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(typer.Exit):
        doctor(service.url)
    shown = capsys.readouterr().out
    assert "-> one rollout says little" in shown and "0 failed, 1 with a warning" in shown
    assert max(map(len, re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines())) <= 80


def test_rollouts_are_different_and_whole() -> None:
    found = rollouts.stories(3000)  # so many that some would be the same by chance
    assert len({rollout.question for rollout in found}) == 3000
    for rollout in found:
        assert rollout.response is not None and rollout.token_offsets is not None
        pieces = "".join(rollout.response[a:b] for a, b in rollout.token_offsets)
        assert pieces == rollout.response and FALSE.search(rollout.response)
    assert Report("http://x").code == 0
