"""deploy/ray/serve.yaml on a local Ray: two replicas before a real vLLM server, one of them killed."""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from capo_client import CreditClient, Rollout
from capo_client.cli.ports import free_port
from capo_service.engine import embedded
from kit_engine import Running, running, vllm_server
from kit_service import eventually

CONFIG = Path(__file__).parents[2] / "deploy" / "ray" / "serve.yaml"
REPLICAS = 2

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with vllm_server(tmp_path_factory.mktemp("logs") / "vllm.log") as server:
        yield server


@pytest.fixture(scope="module")
def cluster(upstream: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Ray on this machine alone, and on it what the file says, less its GPUs."""
    folder = tmp_path_factory.mktemp("ray")
    port = free_port()
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    [application] = config["applications"]
    application["args"] = {
        "engine": "openai", "upstream": upstream.url, "model": "judge", "verify_workers": 1,
        "tokenizer": str(embedded.folder()), "critique_style": "verdict", "nonce_secret": "same",
    }  # fmt: skip
    [deployment] = application["deployments"]
    del deployment["autoscaling_config"]
    deployment |= {"num_replicas": REPLICAS, "health_check_period_s": 1}
    deployment["ray_actor_options"] = {"num_cpus": 0.5}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))

    tools = Path(sys.executable).parent
    # A token of its own: else whether Ray asks for one depends on a file in this user's home.
    environment = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    gcs = free_port()
    head = [
        str(tools / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={gcs}", "--include-dashboard=false", "--num-cpus=4", "--disable-usage-stats",
        "--object-store-memory=100000000",
    ]  # fmt: skip
    apply = [str(tools / "serve"), "run", "--address", f"127.0.0.1:{gcs}", str(path)]
    with ExitStack() as stack:
        # Ray's head answers no HTTP; `serve run` waits for it.
        stack.enter_context(started(head, folder / "head.log", environment))
        time.sleep(5)
        served = stack.enter_context(
            running(apply, port, "/health/ready", folder / "serve.log", "ray", **environment)
        )
        # The first replica is enough to be ready; the second may still be starting.
        all_answer(served.url)
        yield served


def started(command: list[str], log: Path, environment: dict[str, str]) -> ExitStack:
    import subprocess

    stack = ExitStack()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )

    def stop() -> None:
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        for member in family[1:]:
            if member.is_running():
                member.kill()

    stack.callback(stop)
    return stack


def replicas() -> list[psutil.Process]:
    return [
        process for process in psutil.process_iter(["cmdline"])
        if "ServeReplica:capo:CreditService" in " ".join(process.info["cmdline"] or ())
    ]  # fmt: skip


def answered(url: str) -> dict[str, float]:
    """Rollouts credited, by replica (which tells itself apart by when it started)."""
    found: dict[str, float] = {}
    for _ in range(60):
        response = httpx.get(f"{url}/metrics", headers={"Connection": "close"})
        if response.status_code != 200:
            continue
        text = response.text
        [born] = re.findall(r"^process_start_time_seconds (\S+)", text, re.MULTILINE)
        done = re.findall(r'^capo_rollouts_total\{.*status="200"\} (\S+)', text, re.MULTILINE)
        found[born] = sum(map(float, done))
        if len(found) == REPLICAS:
            break
    return found


def all_answer(url: str) -> None:
    eventually(lambda: len(replicas()) == REPLICAS and len(answered(url)) == REPLICAS, 120)


def rollouts(count: int, tag: str) -> list[Rollout]:
    return [
        Rollout(question=f"{tag} {i}?", response=f"It is {i}.\n\nSo {i}.", outcome=1.0)
        for i in range(count)
    ]


def test_requests_spread_over_the_replicas(cluster: Running) -> None:
    with CreditClient(cluster.url, batch_size=2, concurrency=8) as client:
        assert client.info().engine == "openai"
        batch = client.credit(rollouts(32, "spread"), voting={"n": 2})
    assert len(batch.raise_for_errors().credited) == 32
    counts = answered(cluster.url)
    assert len(counts) == REPLICAS and min(counts.values()) > 0
    assert sum(counts.values()) == 32


def test_a_killed_replica_comes_back_and_the_client_loses_nothing(cluster: Running) -> None:
    before = replicas()
    assert len(before) == REPLICAS
    results: list[int] = []

    def work() -> None:
        with CreditClient(cluster.url, batch_size=4, concurrency=8) as client:
            batch = client.credit(rollouts(120, "kill"), voting={"n": 4, "early_stop": False})
            results.append(len(batch.raise_for_errors().credited))

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(2)
    os.kill(before[0].pid, signal.SIGKILL)
    thread.join(300)
    assert results == [120]
    all_answer(cluster.url)
    assert {process.pid for process in replicas()} != {process.pid for process in before}


def test_the_file_is_what_ray_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
