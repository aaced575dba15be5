"""The `capo` command. Other packages add to it by the entry-point group `capo.commands`.

Exit codes of every command: 0 done; 1 done, and something of it failed (rollouts were refused, do
not align, or the service broke a promise); 2 it cannot be done as asked, change what the message
says; 3 not finished for now, or no service answers: run it again; 4 and 5 of `capo serve`: the
judge cannot be loaded, the port is taken; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

import capo_wire as wire
from capo_client import errors
from capo_client.cli import console
from capo_client.cli.attack.run import attack
from capo_client.cli.demo import demo
from capo_client.cli.evaluate.run import evaluate
from capo_client.cli.file_job import FileJob, FileJobError
from capo_client.client import CreditClient

app = typer.Typer(
    help="Voted step and token rewards from a generative process reward model (CAPO).",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# command -> the extra that brings it
_EXTRAS = {
    "serve": "service", "prompt": "service", "check-alignment": "service", "key": "service",
    "train": "trainer", "testbed": "trainer",
}  # fmt: skip

Url = Annotated[
    str | None, typer.Option(help="The service.", envvar="CAPO_URL", show_default="this machine's")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Key = Annotated[str | None, typer.Option(help="Sent as Bearer.", envvar="CAPO_API_KEY")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"capo-credit {importlib.metadata.version('capo-credit')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


@app.command()
def info(url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Show what a running service has: judge, tokenizers, limits."""
    with console.explained("capo info"), CreditClient(url, api_key=api_key) as client:
        found = client.info()
    if as_json:
        typer.echo(found.model_dump_json())
        return
    rows = []
    for name, value in found.model_dump().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:,}" for key, number in value.items())
        rows.append((name.replace("_", " "), _plain(value)))
    console.show(("", "this service"), rows, left=2)


def _plain(value: object) -> str:
    if value is None:
        return "-"
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


@app.command()
def credit(
    file: Annotated[Path, typer.Argument(help="Rollouts, one JSON object a line.")],
    out: Annotated[Path, typer.Option(help="Results, one JSON object a line.")],
    url: Url = None,
    api_key: Key = None,
    method: Annotated[str | None, typer.Option(help="Voting method.")] = None,
    n: Annotated[int | None, typer.Option(help="Critiques for each rollout.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the critiques.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the critiques.")] = None,
    scheme: Annotated[str | None, typer.Option(help="Reward scheme.")] = None,
    w_whole: Annotated[float | None, typer.Option(help="Weight of the outcome.")] = None,
    w_process: Annotated[float | None, typer.Option(help="Penalty of a wrong step.")] = None,
    segment: Annotated[str | None, typer.Option(help="Segmenter.")] = None,
    pattern: Annotated[str | None, typer.Option(help="RE2 pattern of segmenter regex.")] = None,
    critiques: Annotated[bool, typer.Option(help="Keep the critiques' texts.")] = False,
    hide_reference: Annotated[bool, typer.Option(help="Do not show it to the judge.")] = False,
    batch_size: Annotated[int, typer.Option(help="Rollouts in one request.")] = 16,
    concurrency: Annotated[int, typer.Option(help="Requests at once.")] = 8,
    deadline: Annotated[float, typer.Option(help="Seconds for a window of rollouts.")] = 3600,
    retry_errors: Annotated[bool, typer.Option(help="Do failed lines again.")] = False,
    as_json: Json = False,
) -> None:
    """Send a file of rollouts through a running service.

    Runs again where it stopped: lines that have a result in --out are not sent again. Exits with 1
    if rollouts were refused, and with 3 if the service could not do all of them for now.
    """
    voting = {"method": method, "n": n, "temperature": temperature, "seed": seed}
    options = {
        "voting": _given(voting),
        "reward": _given({"scheme": scheme, "w_whole": w_whole, "w_process": w_process}),
        "segment": _given({"method": segment, "pattern": pattern}),
        "include": ["token_rewards", "critiques"] if critiques else None,
        "show_reference": False if hide_reference else None,
    }
    with (
        console.explained("capo credit"),
        CreditClient(
            url, api_key=api_key, batch_size=batch_size, concurrency=concurrency
        ) as client,
    ):
        try:
            job = FileJob(file, out, _given(options), retry_errors)
            _run(job, client, deadline)
        except FileJobError as error:
            console.complain("capo credit", error)
            raise typer.Exit(2) from None
        except (errors.UnavailableError, errors.DeadlineExceededError) as error:
            console.complain("capo credit", error)  # and then what is done and what is not
    _report(job, as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, {})}


def _run(job: FileJob, client: CreditClient, deadline: float) -> None:
    kept = f"Results so far are in {job.target}; run the same command again to go on."
    with console.stoppable("capo credit", kept), console.bar("rollouts") as bar:
        done = job.total - len(job.missing)
        task = bar.add_task("crediting", total=job.total, completed=done)

        def progress(_: wire.Credited | wire.Failed) -> None:
            bar.advance(task)

        job.run(client, deadline, progress)


def _report(job: FileJob, as_json: bool) -> None:
    credited, failed = len(job.results) - len(job.errors), len(job.errors)
    first = json.loads(job.results[min(job.errors)]) if job.errors else None
    if as_json:
        told = {"rollouts": job.total, "credited": credited, "errors": failed,
                "missing": len(job.missing), "out": str(job.target),
                "first_error": first and {"line": first["line"], **first["error"]}}  # fmt: skip
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"{credited} of {job.total} rollouts credited, {failed} errors, in {job.target}")
        if first is not None:
            typer.echo(f"first error: line {first['line']}: {first['error']['detail']}")
        if job.missing:
            typer.echo(f"{len(job.missing)} still to do: run the same command again to resume")
    if job.missing:
        raise typer.Exit(3)
    if job.errors:
        raise typer.Exit(1)


app.command()(demo)
app.command()(attack)
app.command("eval")(evaluate)


def add_commands(words: Sequence[str]) -> None:
    """Commands of other packages; those that lack their dependencies say what to install.

    Args:
        words: of the command line. Only what they name is loaded, for FastAPI would make
            `capo credit` slow to start; the others are there by name, for shells that complete.
    """
    every = not words or words[0] in ("--help", "-h")
    for entry in importlib.metadata.entry_points(group="capo.commands"):
        if not every and entry.name not in words:
            app.command(entry.name)(lambda: None)
            continue
        try:
            app.command(entry.name)(entry.load())
        except ImportError as error:
            if (error.name or "").startswith("capo_"):
                raise  # a fault of this package, and not a dependency that is missing
            _add_missing(entry.name, error)


def _add_missing(name: str, error: ImportError) -> None:
    """A command that only says what to install, whatever options follow it."""

    def command() -> None:
        console.complain(
            f"capo {name}",
            f"it needs more than the client ({error}): pip install {_extra(name)}",
        )
        raise typer.Exit(2)

    app.command(
        name,
        help=escape(f"Needs: pip install {_extra(name)}"),  # Rich would take [service] for a style
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(command)


def _extra(name: str) -> str:
    return f"'capo-credit[{_EXTRAS.get(name, name)}]'"


def main() -> None:
    """Entry point."""
    completing = os.environ.get("COMP_WORDS", "").split()
    add_commands(completing or sys.argv[1:])
    app()


if __name__ == "__main__":
    main()
