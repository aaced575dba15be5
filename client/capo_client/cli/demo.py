"""`capo demo`: credit the rollouts that come with the package, and show the results."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import capo_wire as wire
from capo_client.cli import console, render
from capo_client.cli.local_service import local_service
from capo_client.cli.options import (
    DEFAULT_CRITIQUES,
    DEFAULT_METHOD,
    ApiKeyOption,
    CritiquesOption,
    JsonOption,
    MethodOption,
)
from capo_client.client import CreditClient
from capo_client.results import CreditBatch

_DEFAULT_URL = "http://127.0.0.1:8000"
_WIDTH = 110  # characters, if standard output is not a TTY
_SHOWN_OFFSETS = 40  # tokens of the example whose offsets are shown in the curl command

screen = Console(width=None if sys.stdout.isatty() else _WIDTH)


@dataclass(frozen=True, slots=True)
class DemoRollout:
    """A rollout that comes with the package; `tokenizer` is that of its token ids."""

    id: str
    question: str
    reference: str
    response: str
    tokenizer: str
    response_token_ids: list[int]
    token_offsets: list[tuple[int, int]]
    known_wrong: list[int]

    def rollout(self, tokenizers: Sequence[str]) -> wire.Rollout:
        """With token ids if the service has their tokenizer, else with offsets."""
        tokens: dict[str, Any] = (
            {"response_token_ids": self.response_token_ids, "tokenizer": self.tokenizer}
            if self.tokenizer in tokenizers
            else {"token_offsets": self.token_offsets}
        )
        return wire.Rollout(
            id=self.id,
            question=self.question,
            reference=self.reference,
            response=self.response,
            **tokens,
        )


DEMO, SYMBOLIC = "demo", "symbolic"
# Judges of the testbed's kind are known by this; they judge nothing but arithmetic stories.
_TESTBED = "testbed"
_NOT_FOR_TRAINING = {
    DEMO: "The demo's judge (1.4 M parameters) knows only arithmetic stories like these.",
    "SmolLM2-135M-Instruct": "The embedded 135M model is too small to be a good judge.",
    SYMBOLIC: "The arithmetic checker finds false equations, and no other errors.",
}


def load_examples(judge: str = "") -> list[DemoRollout]:
    """The rollouts that come with the package, of the kind that a judge can read.

    Args:
        judge: its name. The demo's and the testbed's judges know arithmetic stories only.
    """
    stories = judge == DEMO or judge.startswith(_TESTBED)
    name = "stories.jsonl" if stories else "rollouts.jsonl"
    text = (resources.files("capo_wire") / "examples" / name).read_text("utf-8")
    return [DemoRollout(**json.loads(line)) for line in text.splitlines()]


def demo(
    url: Annotated[
        str | None, typer.Option(help="URL of a running service. Default: start one.")
    ] = None,
    api_key: ApiKeyOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Judge of the started service, or `symbolic`, which checks arithmetic only.",
            show_default="demo, or symbolic where vLLM is not installed",
        ),
    ] = None,
    method: MethodOption = DEFAULT_METHOD,
    n: CritiquesOption = DEFAULT_CRITIQUES,
    keep: Annotated[
        bool, typer.Option("--keep", metavar="", help="Keep the started service running.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Credit a few example rollouts and show their steps, votes and token rewards."""
    screen.quiet = as_json
    note = "Nothing is kept; the service that was started is stopped."
    with console.explained("capo demo"), console.stoppable("capo demo", note):
        if url is not None:
            examples = _show(url, api_key, method, n, as_json)
            _show_usage(url, examples[1])
            return
        judge = model or _default_judge()
        with local_service(judge, _serve_options(judge), screen) as started:
            examples = _show(started.url, None, method, n, as_json)
            if keep:
                _show_usage(started.url, examples[1])
                screen.print(f"\nThe service keeps running at {started.url}; Ctrl-C stops it.")
                started.process.wait()
                return
        serve = " ".join(["capo", "serve", *_serve_options(judge)])
        screen.print(f"\nNext, start a permanent service: {serve}", highlight=False)
        _show_usage(_DEFAULT_URL, examples[1])


def _default_judge() -> str:
    """The demo's judge, or the arithmetic checker where vLLM is not installed."""
    if not importlib.util.find_spec("fastapi"):
        console.complain(
            "capo demo",
            "the service is not installed: pip install 'capo-credit[service]', or give the URL of "
            "a running one with --url",
        )
        raise typer.Exit(2)
    if importlib.util.find_spec("vllm"):
        return DEMO
    screen.print(
        "vLLM is not installed: the demo's judge is the arithmetic checker (capo serve --engine "
        "symbolic), which needs no model.",
        style="yellow",
        highlight=False,
        soft_wrap=True,
    )
    return SYMBOLIC


def _serve_options(judge: str) -> list[str]:
    return ["--engine", SYMBOLIC] if judge == SYMBOLIC else [judge]


def _show(url: str, api_key: str | None, method: str, n: int, as_json: bool) -> list[DemoRollout]:
    """Credit the examples for the service's judge, and return them."""
    with CreditClient(url, api_key=api_key) as client:
        info = client.info()
        examples = load_examples(info.model)
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
        return examples
    rewards = [step.reward for result in batch.credited for step in result.steps] or [0.0]
    bounds = min(rewards), max(rewards)
    for example, result in zip(examples, batch, strict=True):
        screen.print(
            render.panel(example.question, example.response, result, bounds, example.known_wrong)
        )
    _summarise(examples, batch, info, seconds)
    return examples


def _summarise(
    examples: Sequence[DemoRollout], batch: CreditBatch, info: wire.Info, seconds: float
) -> None:
    usage = batch.usage
    screen.print(
        f"{len(batch.credited)} rollouts credited, {len(batch.failed)} failed, in {seconds:.1f} s: "
        f"{usage.critiques_run} critiques, {usage.completion_tokens} completion tokens, "
        f"{usage.prompt_tokens} prompt tokens, {usage.cached_tokens} of them from cache.",
        highlight=False,
    )
    found = missed = flagged = right = 0
    for example, result in zip(examples, batch, strict=True):
        if isinstance(result, wire.Credited):
            for step in result.steps:
                is_wrong = step.index in example.known_wrong
                found += is_wrong and step.wrong
                missed += is_wrong and not step.wrong
                flagged += not is_wrong and step.wrong
                right += not is_wrong and not step.wrong
    screen.print(
        f"The judge {info.model} named {found} of {found + missed} wrong steps, and called "
        f"{flagged} of {flagged + right} right steps wrong.",
        highlight=False,
    )
    if info.model in _NOT_FOR_TRAINING:
        screen.print(
            f"{_NOT_FOR_TRAINING[info.model]} To train, use a real judge:\n"
            "  capo serve Qwen/Qwen2.5-7B-Instruct",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


def _show_usage(url: str, example: DemoRollout) -> None:
    """How to send the same rollout with curl and in Python."""
    if screen.quiet:
        return
    url = url.rstrip("/")
    body: dict[str, Any] = {
        "question": example.question,
        "response": example.response,
        "reference": example.reference,
    }
    note = "(add response_token_ids and tokenizer, or token_offsets, to get token_rewards)"
    if len(example.token_offsets) <= _SHOWN_OFFSETS:
        body["token_offsets"] = example.token_offsets
        note = "(token_offsets: the characters of each token, for token_rewards)"
    shown = json.dumps({"rollouts": [body]}, ensure_ascii=False).replace("'", "'\\''")
    screen.print("\nThe same with curl:", style="bold")
    screen.print(note, style="dim")
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
