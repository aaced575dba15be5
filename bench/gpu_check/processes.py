"""The service and the bare engine, each as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from capo_client.cli.ports import free_port

START_SECONDS = 1800  # of an engine; a first start downloads the weights
_FEW_CORES = 4
Ask = Callable[[Mapping[str, Any]], dict[str, Any]]


class StartError(Exception):
    """A process ended, or was not ready in time; the message has the end of its log."""


@contextlib.contextmanager
def service(
    model: str, engine_args: Sequence[str], log: Path, settings: Mapping[str, str]
) -> Iterator[tuple[str, float]]:
    """`capo serve` on a free port of this machine: its URL, and the seconds until it was ready."""
    port = free_port()
    command = [sys.executable, "-m", "capo_client", "serve", model, "--port", str(port)]
    for argument in engine_args:
        command += ["--engine-arg", argument]
    # Runs that sample the same must not share each other's judging.
    environment = {**_environment(), "CAPO_RESULT_CACHE": "none", **settings}
    url = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    with _logged(command, log, environment) as process:
        while not _is_ready(url):
            _check_alive(process, log, began)
            time.sleep(0.2)
        yield url, time.monotonic() - began


@contextlib.contextmanager
def bare(model: str, engine_args: Sequence[str], log: Path) -> Iterator[tuple[Ask, dict[str, Any]]]:
    """vLLM's `LLM` with its own defaults: asks it, and what it answered when it was ready."""
    script = str(Path(__file__).with_name("bare_llm.py"))
    command = [sys.executable, script, "--model", model, "--engine-args", json.dumps(engine_args)]
    environment = _environment()
    if (os.cpu_count() or 1) <= _FEW_CORES:  # or vLLM for CPUs leaves a core unused
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    began = time.monotonic()
    with _logged(command, log, environment) as process:
        assert process.stdin and process.stdout
        answers = process.stdout

        def read() -> dict[str, Any]:
            line = answers.readline()
            if not line:
                raise StartError(f"the bare engine ended; {_end_of(log)}")
            found: dict[str, Any] = json.loads(line)
            if "error" in found:
                raise RuntimeError(found["error"])
            return found

        def ask(task: Mapping[str, Any]) -> dict[str, Any]:
            assert process.stdin
            print(json.dumps(task), file=process.stdin, flush=True)
            return read()

        ready = read()
        yield ask, ready | {"ready_s": time.monotonic() - began}


def _environment() -> dict[str, str]:
    """Without settings of the service: its defaults are measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CAPO_")}


@contextlib.contextmanager
def _logged(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if "--engine-args" in command else output,
            stderr=output,
            text=True,
            env=dict(environment),
        )
    engine: list[psutil.Process] = []
    try:
        yield process
    finally:
        # The engine's own processes hold the GPU's memory, which the next engine needs.
        with contextlib.suppress(psutil.Error):
            engine = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, left = psutil.wait_procs(engine, timeout=30)
        for each in left:
            with contextlib.suppress(psutil.Error):
                each.kill()


def _check_alive(process: subprocess.Popen[str], log: Path, began: float) -> None:
    if process.poll() is not None:
        raise StartError(f"the service ended; {_end_of(log)}")
    if time.monotonic() - began > START_SECONDS:
        raise StartError(f"the service was not ready in {START_SECONDS} s; {_end_of(log)}")


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join([f"the end of {log}:", *lines[-12:]])


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
