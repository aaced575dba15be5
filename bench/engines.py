"""Processes that the benchmarks measure, and requests to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from capo_client import AsyncCreditClient, CreditBatch
from capo_client.cli.ports import free_port
from capo_service.engine import embedded
from capo_testbed.serving import serving, until_ready

OUT = Path("build/bench")
LOGS = OUT / "service"
CORES = str(os.cpu_count())

Rollouts = list[dict[str, Any]]


@contextlib.contextmanager
def service(style: str, judge: str = "embedded", **settings: str) -> Iterator[str]:
    settings = {"CAPO_CRITIQUE_STYLE": style, "CAPO_NONCE_SECRET": "bench"} | settings
    with serving(judge, LOGS / f"{judge}-{style}.log", OMP_NUM_THREADS=CORES, **settings) as url:
        yield url


@contextlib.contextmanager
def bare(style: str, engine_args: dict[str, Any] | None = None) -> Iterator[Any]:
    command = [
        sys.executable,
        str(Path(__file__).with_name("bare.py")),
        "--style",
        style,
        "--engine-args",
        json.dumps(engine_args or {}),
    ]
    with (LOGS / f"bare-{style}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": CORES},
        )
    assert process.stdin and process.stdout

    def ask(rollouts: Rollouts, voting: dict[str, Any]) -> dict[str, float]:
        assert process.stdin and process.stdout
        print(json.dumps({"rollouts": rollouts, "voting": voting}), file=process.stdin, flush=True)
        return answer(process.stdout.readline())

    def answer(line: str) -> dict[str, float]:
        if not line:
            raise RuntimeError(f"the bare engine ended; see {log.name}")
        return dict(json.loads(line))

    try:
        answer(process.stdout.readline())
        yield ask
    finally:
        process.stdin.close()
        process.wait(60)


@contextlib.contextmanager
def vllm_server() -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(embedded.folder()),
        "--served-model-name",
        "judge",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "bfloat16",
        "--kv-cache-memory-bytes",
        str(1 << 30),
        "--enforce-eager",
        "--block-size",
        "32",
        "--max-num-seqs",
        "64",
    ]
    settings = {"OMP_NUM_THREADS": CORES, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with until_ready(
        command, f"http://127.0.0.1:{port}", "/health", LOGS / "vllm.log", settings
    ) as url:
        yield url


def credited(
    url: str, rollouts: Rollouts, voting: dict[str, Any], **options: Any
) -> tuple[float, CreditBatch]:
    async def call() -> tuple[float, CreditBatch]:
        async with AsyncCreditClient(url) as client:
            started = time.perf_counter()
            batch = await client.credit(rollouts, deadline=3600, voting=voting, **options)
            return time.perf_counter() - started, batch.raise_for_errors()

    return asyncio.run(call())


def metric(url: str, name: str) -> float:
    """Sum of a metric's values over its labels."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))


def loop_blocks(url: str) -> dict[float, float]:
    """Wake-ups of the event loop by lateness: upper edge of a bucket in seconds -> count."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    buckets = re.findall(r'^capo_loop_blocked_seconds_bucket{le="(.*)"} (\S+)$', text, re.MULTILINE)
    edges, counts = [float(edge) for edge, _ in buckets], [float(n) for _, n in buckets]
    return {edge: n - less for edge, n, less in zip(edges, counts, [0.0, *counts], strict=False)}
