"""What an operator sees and does: keys, logs, metrics, traces, TLS, and stopping."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from capo_client import AsyncCreditClient, CreditClient, Rollout, UnavailableError
from capo_client.cli.ports import free_port
from capo_service.engine.base import CritiqueSampling
from capo_service.scheduling import key_watch
from capo_service.scheduling.api_keys import digest
from kit_engine import running
from kit_scripted import ScriptedEngine, nothing_wrong
from kit_service import Background, Service, body, eventually, serving, settings

ROOT = Path(__file__).parents[2]
SCRIPTED = ROOT / "tests" / "serve_scripted.py"
SECRET = "the butler did it"


def key_file(folder: Path, **keys: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(
        "".join(f'[[key]]\nname = "{n}"\nsha256 = "{digest(n)}"\n{m}\n' for n, m in keys.items())
    )
    return path


def post(service: Service | str, key: str, count: int = 1) -> httpx.Response:
    url = service if isinstance(service, str) else service.url
    rollouts = [{"question": "q", "response": f"a {i}", "outcome": 1} for i in range(count)]
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/credit", json=body(*rollouts), headers=headers)


def test_a_key_does_what_its_roles_and_its_quota_allow(tmp_path: Path) -> None:
    keys = key_file(
        tmp_path, trainer="rollouts_per_minute = 3", viewer='roles = ["info"]',
        scraper='roles = ["metrics"]', queue="max_queued = 2",
    )  # fmt: skip
    given = settings(tmp_path, api_keys_file=keys, metrics_need_key=True)
    with serving(ScriptedEngine(), given) as service:
        assert post(service, "viewer").status_code == 403
        assert post(service, "viewer").json()["type"] == "urn:capo:problem:forbidden"
        assert post(service, "nobody").status_code == 401
        assert post(service, "trainer", 3).status_code == 200
        refused = post(service, "trainer")
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:capo:problem:quota-exceeded"
        assert 10 <= int(refused.headers["retry-after"]) <= 20  # a rollout every 20 s
        too_many = post(service, "queue", 3)
        assert too_many.status_code == 413 and "allows 2 (max_queued)" in too_many.text
        assert post(service, "queue", 2).status_code == 200
        url = f"{service.url}/metrics"
        assert httpx.get(url).status_code == 401
        found = httpx.get(url, headers={"Authorization": "Bearer scraper"})
        assert 'capo_rollouts_total{key="trainer",status="200"} 3.0' in found.text


def test_keys_change_while_the_service_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_watch, "_POLL_SECONDS", 0.05)
    keys = key_file(tmp_path, old="")
    with serving(ScriptedEngine(), settings(tmp_path, api_keys_file=keys)) as service:
        assert post(service, "old").status_code == 200
        key_file(tmp_path, new="")
        eventually(lambda: post(service, "new").status_code == 200)
        assert post(service, "old").status_code == 401
        keys.write_text("not a key file")
        eventually(lambda: "keeping the previous keys" in caplog.text)
        assert post(service, "new").status_code == 200
        key_file(tmp_path, mended="")
        eventually(lambda: post(service, "mended").status_code == 200)


def test_a_request_has_an_id_that_its_caller_may_choose(tmp_path: Path) -> None:
    with serving(ScriptedEngine(), settings(tmp_path)) as service:
        for sent, kept in [("run-7:step-3", True), ("two words", False), ("x" * 200, False)]:
            answer = httpx.post(
                f"{service.url}/credit", json=body(), headers={"X-Request-Id": sent}
            )
            assert (answer.headers["x-request-id"] == sent) == kept
        assert httpx.get(f"{service.url}/nothing").headers["x-request-id"]


def test_metrics_tell_what_the_dashboard_asks(tmp_path: Path) -> None:
    def script(prompt: str, sampling: CritiqueSampling) -> str:
        if "cut me" in prompt:
            return '{"analysis": "' + "x" * 5000
        return nothing_wrong(prompt, sampling)

    with serving(ScriptedEngine(script), settings(tmp_path)) as service:
        rollouts = [
            {"question": "q", "response": "a\n\nb", "outcome": 1.0},
            {"question": "q", "response": "cut me", "outcome": 0.0},
            {"question": "q", "response": "a\n\nb", "outcome": 1.0, "steps": [[0, 9]]},
        ]
        httpx.post(f"{service.url}/credit", json=body(*rollouts, voting={"early_stop": True}))
        text = httpx.get(f"{service.url}/metrics").text
    found = {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    assert found["capo_rollouts_total", "200", "anonymous"] == 1
    assert found["capo_rollouts_total", "422", "anonymous"] == 1
    assert found["capo_rollouts_total", "502", "anonymous"] == 1
    assert found["capo_rollouts_judged_total", "false", "right"] == 1
    run, saved = found["capo_critiques_total", "true"], found["capo_critiques_saved_total",]
    assert run + saved == 4 and run >= 2
    # The rollout without a readable critique counts too: four, and all cut off.
    assert found["capo_critiques_total", "false"] == found["capo_critiques_cut_off_total",] == 4
    assert found["capo_judge_tokens_total", "anonymous", "completion"] > 4 * 100
    assert found["capo_agreement_ratio_count",] == 1 and found["capo_agreement_ratio_sum",] == 1
    assert found["capo_steps_total", "right"] == 2
    assert found["capo_queued_tokens",] == 0
    assert found["capo_queue_seconds_count",] == 1
    assert found["scripted_running",] == 0  # the engine's own
    assert [k for k in found if k[0] == "capo_build_info"] != []


def test_every_metric_says_what_it_is_in_plain_words_and_has_its_type(tmp_path: Path) -> None:
    engine = ScriptedEngine(restarts=3)
    with serving(engine, settings(tmp_path)) as service:
        text = httpx.get(f"{service.url}/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    restarts = families["capo_engine_restarts"]
    assert restarts.type == "counter" and "capo_engine_restarts_total 3.0" in text
    for name, family in families.items():
        if name.startswith("capo_") and not name.endswith("_created"):
            assert len(family.documentation) > 10, name
            assert not re.search(r"of late|for want of|worth|what came of", family.documentation)
    told = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    for name, family in families.items():
        if name.startswith("capo_") and not name.endswith("_created"):
            exposed = f"{name}_total" if family.type == "counter" else name
            assert f"`{exposed}" in told, f"{exposed} is not in docs/monitoring.md"


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


async def test_spans_join_the_trace_of_the_caller(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    rollouts = [Rollout(question="q", response=f"a {i}", outcome=1.0) for i in range(2)]
    with serving(ScriptedEngine(), settings(tmp_path)) as service:
        with trace.get_tracer("trainer").start_as_current_span("training step") as step:
            async with AsyncCreditClient(service.url) as client:
                await client.credit(rollouts)
            with CreditClient(service.url) as other:
                other.credit(rollouts)
        eventually(lambda: [s.name for s in spans.get_finished_spans()].count("POST /credit") == 2)
    mine = step.get_span_context()
    ours = [s for s in spans.get_finished_spans() if s.context.trace_id == mine.trace_id]
    parents = {s.context.span_id: s.name for s in ours}
    tree = {(s.name, parents[s.parent.span_id]) for s in ours if s.parent is not None}
    assert tree == {
        ("POST /credit", "training step"), ("rollout", "POST /credit"), ("queue", "rollout"),
        ("engine", "rollout"), ("vote", "rollout"),
    }  # fmt: skip
    assert [s.name for s in ours].count("rollout") == 4


@contextmanager
def process(folder: Path, delay: float, **given: Any) -> Iterator[tuple[str, Any, Path]]:
    """`capo serve` with a scripted engine as a process: its URL, the process and its log."""
    port = free_port()
    values = json.dumps({"port": port, "verify_workers": 1, **given})
    command = [sys.executable, str(SCRIPTED), values, str(delay)]
    with running(command, port, "/health/ready", folder / "log", "scripted") as service:
        yield service.url, service.process, service.log


def accepted(url: str) -> bool:
    return "capo_accepted 1.0" in httpx.get(f"{url}/metrics").text


@pytest.mark.parametrize("stream", [False, True])
def test_on_sigterm_it_says_so_and_finishes_what_it_has_accepted(
    tmp_path: Path, stream: bool
) -> None:
    with process(tmp_path, delay=2.0) as (url, served, _):
        accept = {"Accept": "application/x-ndjson"} if stream else {}
        waiting = Background(url, body(), **accept)
        eventually(lambda: accepted(url))
        served.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        refused = httpx.post(f"{url}/credit", json=body())
        assert (
            refused.status_code == 503 and refused.json()["title"] == "The service is shutting down"
        )
        assert int(refused.headers["retry-after"]) > 0
        answer = waiting.wait()
        assert answer.status_code == 200
        last = json.loads(answer.text.splitlines()[-1])
        assert last["usage"]["critiques_run"] >= 2  # the stream's summary, or the whole answer
        assert served.wait(20) == 0


def test_what_does_not_end_in_time_is_answered_that_it_will_not(tmp_path: Path) -> None:
    with process(tmp_path, delay=60.0, drain_seconds=1.0) as (url, served, _):
        waiting = Background(url, body())
        eventually(lambda: accepted(url))
        served.send_signal(signal.SIGTERM)
        answer = waiting.wait()
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:capo:problem:draining"
        assert served.wait(20) == 0


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with process(tmp_path, delay=300.0, drain_seconds=300.0) as (url, served, _):
        waiting = Background(url, body())
        eventually(lambda: accepted(url))
        served.send_signal(signal.SIGINT)
        eventually(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        served.send_signal(signal.SIGINT)
        assert waiting.wait().status_code == 503
        assert served.wait(20) == 0


def test_sighup_reads_the_keys_again(tmp_path: Path) -> None:
    keys = key_file(tmp_path, old="")
    with process(tmp_path, 0.0, api_keys_file=str(keys)) as (url, served, log):
        assert post(url, "old").status_code == 200
        key_file(tmp_path, new="")
        served.send_signal(signal.SIGHUP)
        eventually(lambda: "API keys loaded: " in log.read_text())
        assert post(url, "new").status_code == 200 and post(url, "old").status_code == 401


@pytest.mark.parametrize("asked", [False, True])
def test_json_logs_name_the_request_and_hold_no_rollout_unless_asked(
    tmp_path: Path, asked: bool
) -> None:
    given: dict[str, Any] = {"log_format": "json", "log_level": "debug", "log_rollouts": asked}
    with process(tmp_path, 0.0, api_keys=[SECRET], **given) as (url, served, log):
        for rollout in (
            {"question": SECRET, "response": SECRET, "outcome": 1},
            {"question": SECRET, "response": SECRET, "outcome": SECRET},
        ):
            httpx.post(
                f"{url}/credit", json=body(rollout),
                headers={"Authorization": f"Bearer {SECRET}", "X-Request-Id": "my-request"},
            )  # fmt: skip
        assert SECRET not in httpx.get(f"{url}/info", headers={"Authorization": SECRET}).text
        served.send_signal(signal.SIGTERM)
        assert served.wait(20) == 0
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    named = [line for line in lines if line["request_id"] == "my-request"]
    told = [line for line in named if line["message"].startswith("POST /credit 200")]
    assert len(told) == 2 and told[0]["rollouts"] == 1 and told[0]["key"] == "key-1"
    assert all(re.match(r"\d{4}-\d\d-\d\dT", line["timestamp"]) for line in lines)
    assert any(SECRET in json.dumps(line) for line in lines) == asked


def test_tls_and_a_caller_that_must_show_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    server, mine = authority.issue_cert("127.0.0.1"), authority.issue_cert("trainer")
    theirs = stranger.issue_cert("trainer")
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))

    def files(name: str, cert: trustme.LeafCert) -> tuple[Path, Path]:
        chain, private = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        chain.write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
        private.write_bytes(cert.private_key_pem.bytes())
        return chain, private

    cert, private = files("server", server)
    given = settings(tmp_path, tls_cert=cert, tls_key=private, tls_client_ca=ca)
    # The kit waits for readiness in this process, not over HTTPS.
    with serving(ScriptedEngine(), given) as service:
        assert service.url.startswith("https://")
        for client in (
            CreditClient(service.url, ca=ca),
            CreditClient(service.url, ca=ca, cert=files("theirs", theirs)),
            CreditClient(service.url, cert=files("mine", mine)),  # which does not trust the server
        ):
            with client, pytest.raises(UnavailableError):
                client.info()
        with CreditClient(service.url, ca=ca, cert=files("mine", mine)) as client:
            assert client.info().engine == "scripted"
        monkeypatch.setenv("CAPO_CA_FILE", str(ca))
        monkeypatch.setenv("CAPO_CERT_FILE", str(tmp_path / "mine.pem"))
        monkeypatch.setenv("CAPO_KEY_FILE", str(tmp_path / "mine.key"))
        with CreditClient(service.url) as client:
            assert client.info().engine == "scripted"
    with pytest.raises(ValueError, match="cannot be used"):
        CreditClient("https://127.0.0.1", ca=tmp_path / "nothing.pem")


def test_a_new_key_is_told_once_and_its_entry_can_be_appended(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "capo_client", "key", "team-a"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    value = made.stderr.strip().rsplit(" ", 1)[1]
    keys = tmp_path / "keys.toml"
    keys.write_text(made.stdout)
    assert value not in made.stdout
    with serving(ScriptedEngine(), settings(tmp_path, api_keys_file=keys)) as service:
        assert post(service, value).status_code == 200
    bad = subprocess.run([*command[:-1], "no good"], capture_output=True, text=True)
    assert bad.returncode == 2 and "is not a valid key name" in bad.stderr
