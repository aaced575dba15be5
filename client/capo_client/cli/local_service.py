"""A service that a command starts, and stops at its end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from capo_client.cli import console
from capo_client.cli.ports import free_port
from capo_client.client import CreditClient

_READY_SECONDS = 900.0
_STOP_SECONDS = 45.0
_LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class LocalService:
    """A running service on this machine."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def local_service(judge: str, options: Sequence[str], screen: Console) -> Iterator[LocalService]:
    """Start `capo serve` on a free port, and wait until it is ready; stop it at the end.

    Args:
        judge: the name of its judge, for messages.
        options: those of `capo serve`.
        screen: where progress is shown.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "capo_client", "serve", *options]
    with tempfile.NamedTemporaryFile("w+b", prefix="capo-serve-", suffix=".log") as log:
        process = subprocess.Popen(  # noqa: S603  # our own command
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(),
        )
        try:
            _wait(LocalService(url, process), log, judge, screen)
            yield LocalService(url, process)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    """The environment without CAPO_*, so that the service has its defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CAPO_")}


def _wait(service: LocalService, log: IO[bytes], judge: str, screen: Console) -> None:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    process = service.process
    with CreditClient(service.url) as client, Progress(*columns, console=screen) as bar:
        task = bar.add_task(f"starting a service with the judge {judge}")
        until = time.monotonic() + _READY_SECONDS
        while not client.is_ready():
            if process.poll() is not None or time.monotonic() > until:
                bar.stop()
                lines = Path(log.name).read_text("utf-8", errors="replace").splitlines()
                console.complain("capo demo", "the service did not start; the end of its log:")
                for line in lines[-_LOG_LINES:]:
                    typer.echo(line, err=True)
                raise typer.Exit(max(process.returncode or 1, 1))
            time.sleep(0.2)
        bar.update(task, description=f"the judge {judge} is ready")
