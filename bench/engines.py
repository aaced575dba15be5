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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from capo_client import AsyncCreditClient, CreditBatch
from capo_client.cli.ports import free_port
from capo_service.engine.local_models import local_model
from capo_testbed.serving import serving, until_ready

OUT = Path("build/bench")
LOGS = OUT / "service"
CORES = str(os.cpu_count())
# Of every engine that is compared: both cores compute. vLLM's default on two cores is one, since it
# reserves a core for its front end, so this favours the baselines.
ON_CPU = {"OMP_NUM_THREADS": CORES, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
# vLLM's default, 92% of the memory, does not start beside another engine.
NEEDED_ON_CPU = {"kv_cache_memory_bytes": 1 << 30}

Rollouts = list[dict[str, Any]]


@contextlib.contextmanager
def service(style: str, judge: str = "embedded", **settings: str) -> Iterator[str]:
    settings = {"CAPO_CRITIQUE_STYLE": style, "CAPO_NONCE_SECRET": "bench"} | settings
    with serving(judge, LOGS / f"{judge}-{style}.log", **ON_CPU, **settings) as url:
        yield url


class Bare:
    """vLLM's `LLM` in a process of its own (bench/bare.py).

    Attributes:
        arguments: what it was given beside the model; everything else is vLLM's default.
        limits: what vLLM chose: sequences, tokens a step, KV block.
        seeds: whether critiques have seeds, as the service's do.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        ready = self._answer()
        self.arguments: dict[str, Any] = ready["arguments"]
        self.limits: dict[str, int] = ready["limits"]
        self.seeds: bool = ready["seeds"]

    def __call__(self, rollouts: Rollouts, voting: dict[str, Any]) -> dict[str, float]:
        """Sample all critiques of the rollouts at once: `seconds` and `tokens`."""
        assert self._process.stdin
        line = json.dumps({"rollouts": rollouts, "voting": voting})
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the bare engine ended; see {self._log}")
        return dict(json.loads(line))


@contextlib.contextmanager
def bare(
    style: str, model: str = "embedded", arguments: dict[str, Any] | None = None
) -> Iterator[Bare]:
    """vLLM's `LLM` with the service's prompts, and vLLM's own arguments.

    Args:
        arguments: arguments of `LLM` beside the model. None: those that a CPU needs to start at
            all, and none elsewhere.
    """
    command = [sys.executable, str(Path(__file__).with_name("bare.py")), "--model", model]
    command += ["--style", style]
    if arguments is not None:
        command += ["--arguments", json.dumps(arguments)]
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"bare-{Path(model).name}-{style}.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **ON_CPU},
        )
    try:
        yield Bare(process, path)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(60)


@dataclass(frozen=True, slots=True)
class Server:
    """A vLLM server. `arguments`: what it was given, beside vLLM's defaults."""

    url: str
    arguments: dict[str, Any]


@contextlib.contextmanager
def vllm_server(
    model: str = "embedded", arguments: dict[str, Any] | None = None
) -> Iterator[Server]:
    """`vllm serve` with vLLM's own arguments; the judge's name there is `judge`.

    Args:
        arguments: fields of vLLM's `EngineArgs`. None: those that a CPU needs to start at all.
    """
    given = NEEDED_ON_CPU if arguments is None else arguments
    port = free_port()
    # What `vllm serve` runs; the command itself does not start with the package vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", local_model(model)[0], "--served-model-name", "judge"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    for name, value in given.items():
        command += flags(name, value)
    log = LOGS / f"vllm-{model}-{len(given)}.log"
    with until_ready(command, f"http://127.0.0.1:{port}", "/health", log, ON_CPU) as url:
        yield Server(url, dict(given))


def flags(name: str, value: Any) -> list[str]:
    """A field of vLLM's `EngineArgs` as it stands on the command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", str(value)]


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
