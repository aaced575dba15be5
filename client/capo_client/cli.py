"""The `capo` command. Other packages add to it by the entry-point group `capo.commands`."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from capo_client import errors, wire
from capo_client.attack.run import attack
from capo_client.client import CreditClient
from capo_client.demo import demo
from capo_client.filejob import FileJob, FileJobError

app = typer.Typer(
    help="Voted step and token rewards from a generative process reward model (CAPO).",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()
complain = Console(stderr=True, style="red")

# command -> the extra that brings it
_EXTRAS = {
    "serve": "service", "prompt": "service", "check-alignment": "service", "key": "service",
    "train": "trainer", "testbed": "trainer",
}  # fmt: skip

Url = Annotated[
    str | None, typer.Option(help="The service.", envvar="CAPO_URL", show_default="this machine's")
]
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
def info(url: Url = None, api_key: Key = None) -> None:
    """Show what a running service has: judge, tokenizers, limits."""
    with CreditClient(url, api_key=api_key) as client, _explained():
        found = client.info()
    table = Table(show_header=False, box=None)
    for name, value in found.model_dump().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:,}" for key, number in value.items())
        table.add_row(name.replace("_", " "), _plain(value))
    console.print(table)


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


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
    with CreditClient(
        url, api_key=api_key, batch_size=batch_size, concurrency=concurrency
    ) as client:
        try:
            job = FileJob(file, out, _given(options), retry_errors)
            _run(job, client, deadline)
        except FileJobError as error:
            complain.print(f"capo credit: {error}", highlight=False)
            raise typer.Exit(2) from None
        except (errors.UnavailableError, errors.DeadlineExceededError) as error:
            complain.print(f"capo credit: {error}", highlight=False)
        except errors.CapoError as error:
            complain.print(f"capo credit: {error}", highlight=False)
            raise typer.Exit(2) from None
    _report(job)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, {})}


def _run(job: FileJob, client: CreditClient, deadline: float) -> None:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rollouts"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        done = job.total - len(job.missing)
        task = bar.add_task("crediting", total=job.total, completed=done)

        def progress(_: wire.Credited | wire.Failed) -> None:
            bar.advance(task)

        job.run(client, deadline, progress)


def _report(job: FileJob) -> None:
    credited = len(job.results) - len(job.errors)
    console.print(
        f"{credited} of {job.total} rollouts credited, {len(job.errors)} errors, in {job.target}",
        highlight=False,
    )
    if job.errors:
        first = json.loads(job.results[min(job.errors)])
        console.print(f"first error: line {first['line']}: {first['error']['detail']}")
    if job.missing:
        console.print(f"{len(job.missing)} still to do: run the same command again to resume")
        raise typer.Exit(3)
    if job.errors:
        raise typer.Exit(1)


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of the client as one line, not as a traceback."""
    try:
        yield
    except errors.CapoError as error:
        complain.print(f"capo: {error}", highlight=False)
        raise typer.Exit(1) from None


app.command()(demo)
app.command()(attack)


def _add_commands() -> None:
    """Commands of other packages; those that lack their dependencies say what to install."""
    for entry in importlib.metadata.entry_points(group="capo.commands"):
        if entry.name not in sys.argv[1:2] and "--help" not in sys.argv and "-h" not in sys.argv:
            continue  # loading FastAPI would make `capo credit` slow to start
        try:
            app.command(entry.name)(entry.load())
        except ImportError as error:
            app.command(entry.name, help=f"Needs: pip install {_extra(entry.name)}")(
                _missing(entry.name, error)
            )


def _missing(name: str, error: ImportError) -> Any:
    def command() -> None:
        complain.print(
            f"capo {name} needs more than the client ({error}): pip install {_extra(name)}",
            highlight=False, markup=False,
        )  # fmt: skip
        raise typer.Exit(2)

    return command


def _extra(name: str) -> str:
    return f"'capo-credit[{_EXTRAS.get(name, name)}]'"


def main() -> None:
    """Entry point."""
    _add_commands()
    app()


if __name__ == "__main__":
    main()
