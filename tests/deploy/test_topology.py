"""The topology of deploy/compose as processes: two replicas, HAProxy and Prometheus, and faults.

One replica is the real service on the embedded judge; the other has a scripted judge, so that it can
be made to answer what cannot be read.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from capo_client import CreditClient, Rollout
from capo_client.cli.ports import free_port
from kit_engine import Running, capo_serve, running
from kit_service import eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
# The others speak of what a judge says, and the embedded one says much.
OF_FAULTS = {
    "CapoNotReady", "CapoFailing", "CapoEngineLost", "CapoKeysNotRead", "CapoRefusing",
    "CapoJudgeUnreadable",
}  # fmt: skip
PATIENCE = 90  # seconds, for scrapes and rules
SCRIPTED = Path(__file__).parents[1] / "serve_scripted.py"

pytestmark = pytest.mark.timeout(900)


@dataclass
class Topology:
    real: Running
    scripted: Running
    balancer: str
    prometheus: str

    def alerts(self) -> set[tuple[str, str]]:
        """(alert, instance) of what fires."""
        found = httpx.get(f"{self.prometheus}/api/v1/alerts").json()["data"]["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"]["instance"])
            for alert in found
            if alert["state"] == "firing"
        }

    def value(self, query: str) -> float:
        found = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": query}).json()
        return float(sum(float(sample["value"][1]) for sample in found["data"]["result"]))


def instance(service: Running) -> str:
    return service.url.removeprefix("http://")


@pytest.fixture(scope="module")
def topology(debian: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    folder = tmp_path_factory.mktemp("topology")
    command, port = capo_serve("embedded", "--critique-style", "verdict")
    other = free_port()
    values = json.dumps({"port": other, "verify_workers": 1, "model": "scripted"})
    scripted_command = [sys.executable, str(SCRIPTED), values, "0.05"]
    with (
        running(scripted_command, other, "/health/ready", folder / "scripted.log", "s") as scripted,
        running(command, port, "/health/ready", folder / "real.log", "vllm") as real,
    ):
        front = free_port()
        text = (DEPLOY / "compose/haproxy.cfg").read_text()
        text = text.replace("capo:8000", instance(real)).replace("capo-2:8000", instance(scripted))
        (folder / "haproxy.cfg").write_text(text.replace("bind :8080", f"bind 127.0.0.1:{front}"))
        balancer = [debian.program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
        with running(
            balancer, front, "/health/ready", folder / "haproxy.log", "b", **debian.environment()
        ):
            web = write_prometheus(folder, [instance(real), instance(scripted)])
            prometheus = [
                debian.program("prometheus"), f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{web}",
            ]  # fmt: skip
            with running(prometheus, web, "/-/ready", folder / "prometheus.log", "p"):
                yield Topology(
                    real, scripted, f"http://127.0.0.1:{front}", f"http://127.0.0.1:{web}"
                )


def write_prometheus(folder: Path, targets: list[str]) -> int:
    """Our configuration and rules, with clocks that run fast; the port to listen on."""
    rules = (DEPLOY / "prometheus/capo.rules.yml").read_text()
    rules = re.sub(r"for: \d+[mh]", "for: 0s", rules)
    rules = re.sub(r"\[\d+[mh]\]", "[20s]", rules)
    (folder / "capo.rules.yml").write_text(rules)
    config = (DEPLOY / "prometheus/prometheus.yml").read_text()
    config = config.replace("15s", "1s").replace("/etc/prometheus", str(folder))
    config = config[: config.index("    dns_sd_configs")]
    config += f"    static_configs: [{{targets: {json.dumps(targets)}}}]\n"
    (folder / "prometheus.yml").write_text(config)
    return free_port()


def rollouts(count: int, text: str = "3 + 4 = 7") -> list[Rollout]:
    return [
        Rollout(question=f"What is {i}?", response=f"{text}\n\nSo the answer is {i}.", outcome=1.0)
        for i in range(count)
    ]


def test_both_replicas_work_and_prometheus_sees_both(topology: Topology) -> None:
    with CreditClient(topology.balancer, batch_size=2) as client:
        batch = client.credit(rollouts(24), voting={"n": 2})
    assert len(batch.raise_for_errors().credited) == 24
    eventually(lambda: topology.value('capo_rollouts_total{status="200"}') == 24, PATIENCE)
    for service in (topology.real, topology.scripted):
        assert topology.value(f'capo_rollouts_total{{instance="{instance(service)}"}}') > 0
    # The engine's own are forwarded.
    assert topology.value("vllm:prompt_tokens_total") > 0
    assert not {alert for alert, _ in topology.alerts() if alert in OF_FAULTS}


def test_critiques_that_cannot_be_read_raise_alerts(topology: Topology) -> None:
    name = instance(topology.scripted)
    with CreditClient(topology.scripted.url) as client:

        def ask() -> bool:
            client.credit(rollouts(4, "GIBBERISH"))
            return topology.alerts() >= {("CapoJudgeUnreadable", name), ("CapoFailing", name)}

        eventually(ask, PATIENCE)
    assert {(alert, who) for alert, who in topology.alerts() if alert in OF_FAULTS} <= {
        ("CapoJudgeUnreadable", name), ("CapoFailing", name),
    }  # fmt: skip


def test_a_dead_engine_raises_an_alert_and_comes_back_and_no_rollout_is_lost(
    topology: Topology,
) -> None:
    """The real judge is killed while a batch is being judged; the other replica takes over."""
    results: list[int] = []

    def work() -> None:
        with CreditClient(topology.balancer, batch_size=4, concurrency=8) as client:
            batch = client.credit(rollouts(200), voting={"n": 4, "early_stop": False})
            results.append(len(batch.raise_for_errors().credited))

    thread = threading.Thread(target=work)
    thread.start()
    eventually(
        lambda: httpx.get(f"{topology.real.url}/metrics").text.find("capo_running 0.0") < 0,
        PATIENCE,
    )
    [engine] = topology.real.children("EngineCore")
    os.kill(engine.pid, signal.SIGKILL)
    eventually(lambda: ("CapoNotReady", instance(topology.real)) in topology.alerts(), PATIENCE)
    thread.join(300)
    assert results == [200]
    assert httpx.get(f"{topology.real.url}/health/live").status_code == 200
    with CreditClient(topology.real.url) as client:
        client.wait_until_ready(PATIENCE)
    eventually(lambda: topology.value("capo_engine_restarts_total") == 1, PATIENCE)
    eventually(lambda: ("CapoNotReady", instance(topology.real)) not in topology.alerts(), PATIENCE)
