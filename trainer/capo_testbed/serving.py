"""Servers as processes, for experiments, benchmarks and the tools that need a running service."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from capo_client.cli.ports import free_port

SYMBOLIC = "symbolic"
_READY_SECONDS = 300
_STOP_SECONDS = 60


@contextlib.contextmanager
def serving(
    judge: str, log: Path, arguments: Sequence[str] = (), **environment: str
) -> Iterator[str]:
    """A service of a judge on a free port of this machine; its URL, once it is ready.

    Args:
        judge: its name or folder; `symbolic`: the arithmetic checker, which is no model.
        log: where its output goes.
        arguments: further ones of `capo serve`.
        environment: of its process, in addition to this one's.

    Raises:
        RuntimeError: it did not start; `log` says why.
    """
    port = free_port()
    option = "--engine" if judge == SYMBOLIC else "--model"
    command = [sys.executable, "-m", "capo_client", "serve", option, judge]
    command += ["--port", str(port), *arguments]
    # Runs that sample the same must not share each other's judging.
    ours = {"OMP_NUM_THREADS": "1", "CAPO_RESULT_CACHE": "none"}
    url = f"http://127.0.0.1:{port}"
    with until_ready(command, url, "/health/ready", log, ours | environment):
        yield url


@contextlib.contextmanager
def until_ready(
    command: Sequence[str], url: str, probe: str, log: Path, environment: Mapping[str, str]
) -> Iterator[str]:
    """A server as a process, from when `probe` is answered by 200; its URL.

    Raises:
        RuntimeError: it ended, or was not ready in time; `log` says why.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603  # our own command
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        until = time.monotonic() + _READY_SECONDS
        while not _answers(url + probe):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{' '.join(command[:3])} did not start; see {log}")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
