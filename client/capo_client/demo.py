"""`capo demo`: credit the rollouts that come with the package, and show what came back."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from capo_client import render, terminal, wire
from capo_client.client import CreditClient
from capo_client.errors import CapoError
from capo_client.results import CreditBatch

_READY_SECONDS = 900.0
_STOP_SECONDS = 45.0
_LOG_LINES = 15
_WIDTH = 110  # where the output is no terminal

console = Console(width=None if sys.stdout.isatty() else _WIDTH)


@dataclass(frozen=True, slots=True)
class Example:
    """A rollout that comes with the package."""

    id: str
    question: str
    reference: str
    response: str
    response_token_ids: list[int]
    token_offsets: list[tuple[int, int]]
    known_wrong: list[int]

    def rollout(self, tokenizers: Sequence[str]) -> wire.Rollout:
        """By token ids where the service has their tokenizer, else by offsets."""
        tokens: dict[str, Any] = (
            {"response_token_ids": self.response_token_ids, "tokenizer": TOKENIZER}
            if TOKENIZER in tokenizers
            else {"token_offsets": self.token_offsets}
        )
        return wire.Rollout(
            id=self.id,
            question=self.question,
            reference=self.reference,
            response=self.response,
            **tokens,
        )


TOKENIZER = "SmolLM2-135M-Instruct"


def load_examples() -> list[Example]:
    """The rollouts that come with the package."""
    text = (resources.files("capo_client") / "examples" / "rollouts.jsonl").read_text("utf-8")
    return [Example(**json.loads(line)) for line in text.splitlines()]


def demo(
    url: Annotated[
        str | None, typer.Option(help="A running service; by default one is started.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="The judge of the service that is started.")
    ] = "embedded",
    method: Annotated[str, typer.Option(help="Voting method.")] = "majority",
    n: Annotated[int, typer.Option(help="Critiques for each rollout.")] = 4,
    keep: Annotated[bool, typer.Option(help="Leave the started service running.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The results as one JSON object, and nothing else.")
    ] = False,
) -> None:
    """Credit a few example rollouts and show steps, votes and token rewards."""
    console.quiet = as_json
    try:
        if url is not None:
            _show(url, method, n, as_json)
            return
        with _service(model) as started:
            _show(started.url, method, n, as_json)
            if keep:
                console.print(f"\nThe service runs on at {started.url}; Ctrl-C stops it.")
                started.process.wait()
    except CapoError as error:
        terminal.complain("capo demo", error)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        terminal.complain("capo demo", "stopped, and its service too. Nothing is kept.")
        raise typer.Exit(terminal.INTERRUPTED) from None


@dataclass(frozen=True, slots=True)
class _Service:
    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def _service(model: str) -> Iterator[_Service]:
    """A service of its own, ready; stopped at the end."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "capo_client", "serve", "--model", model]
    with tempfile.NamedTemporaryFile("w+b", prefix="capo-serve-", suffix=".log") as log:
        process = subprocess.Popen(  # noqa: S603  # our own command
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=_environment(),
        )  # fmt: skip
        try:
            _wait(url, process, log, model)
            yield _Service(url, process)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    """Ours, less what would point the service elsewhere."""
    return {name: value for name, value in os.environ.items() if name != "CAPO_URL"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes], log: IO[bytes], model: str) -> None:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with CreditClient(url) as client, Progress(*columns, console=console) as bar:
        task = bar.add_task(f"loading the judge ({model}) into vLLM")
        until = time.monotonic() + _READY_SECONDS
        while not client.is_ready():
            if process.poll() is not None or time.monotonic() > until:
                bar.stop()
                said = Path(log.name).read_text("utf-8", errors="replace").splitlines()
                console.print("the service did not start; its last words:", style="red")
                for line in said[-_LOG_LINES:]:
                    console.print(line, markup=False, highlight=False)
                raise typer.Exit(1)
            time.sleep(0.2)
        bar.update(task, description=f"the judge ({model}) is ready")


def _show(url: str, method: str, n: int, as_json: bool) -> None:
    examples = load_examples()
    with CreditClient(url) as client:
        info = client.info()
        started = time.monotonic()
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(f"crediting {len(examples)} rollouts, {n} critiques each")

            def progress(done: int, total: int) -> None:
                bar.update(task, description=f"credited {done} of {total}, {n} critiques each")

            batch = client.credit(
                [example.rollout(info.tokenizers) for example in examples],
                voting=wire.Voting(method=method, n=1 if method == "greedy" else n),
                progress=progress,
            )
        seconds = time.monotonic() - started
    if as_json:
        results = [result.model_dump(mode="json") for result in batch]
        typer.echo(json.dumps({"model": info.model, "seconds": seconds, "results": results}))
        return
    rewards = [step.reward for result in batch.credited for step in result.steps] or [0.0]
    bounds = min(rewards), max(rewards)
    for example, result in zip(examples, batch, strict=True):
        console.print(
            render.panel(example.question, example.response, result, bounds, example.known_wrong)
        )
    _summarise(examples, batch, info, seconds)
    _teach(examples[1])


def _summarise(
    examples: Sequence[Example], batch: CreditBatch, info: wire.Info, seconds: float
) -> None:
    usage = batch.usage
    console.print(
        f"{len(batch.credited)} rollouts credited, {len(batch.failed)} failed, in {seconds:.1f} s: "
        f"{usage.critiques_run} critiques, {usage.completion_tokens} tokens written, "
        f"{usage.prompt_tokens} read, {usage.cached_tokens} of them from cache.",
        highlight=False,
    )
    found = missed = flagged = right = 0
    for example, result in zip(examples, batch, strict=True):
        if isinstance(result, wire.Credited):
            for step in result.steps:
                known = step.index in example.known_wrong
                found += known and step.wrong
                missed += known and not step.wrong
                flagged += not known and step.wrong
                right += not known and not step.wrong
    console.print(
        f"The judge {info.model} named {found} of {found + missed} wrong steps, and called "
        f"{flagged} of {flagged + right} right steps wrong.",
        highlight=False,
    )
    if info.model == TOKENIZER:
        console.print(
            "That is what the embedded 135M model can do: it shows the machinery, not good credit. "
            "For real credit name a real judge, say\n"
            "  capo serve --model Qwen/Qwen2.5-72B-Instruct --engine-arg tensor_parallel_size=4",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip


def _teach(example: Example) -> None:
    """The same with curl and in Python, for `make serve` or any running service."""
    body = {
        "question": example.question,
        "response": example.response,
        "reference": example.reference,
    }
    shown = json.dumps({"rollouts": [body]}, ensure_ascii=False).replace("'", "'\\''")
    console.print("\nThe same with curl, while `capo serve` (or `make serve`) runs:", style="bold")
    console.print(
        "(add response_token_ids and tokenizer, or token_offsets, to get token_rewards)",
        style="dim",
    )
    address = "http://127.0.0.1:8000"
    print(f"curl -s {address}/credit -H 'Content-Type: application/json' -d '{shown}'")
    console.print("\nand in Python:", style="bold")
    print(
        "from capo_client import CreditClient, Rollout\n\n"
        f'with CreditClient("{address}") as client:\n'
        "    batch = client.credit([Rollout(\n"
        f"        question={example.question!r},\n"
        f"        response={example.response!r},\n"
        f"        reference={example.reference!r},\n"
        "    )])\n"
        "    for step in batch[0].steps:\n"
        "        print(step.index, step.wrong, step.votes, step.reward)"
    )
