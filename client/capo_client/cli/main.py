"""The `capo` command. Other packages add commands by the entry-point group `capo.commands`.

Exit codes of all commands:
0    success
1    completed with failures: rollouts were refused or do not align, or a result is invalid
2    usage error: the message says what to change
3    incomplete, or the service is unavailable: run the same command again
4    `capo serve`: the judge cannot be loaded
5    `capo serve`: cannot listen at --host and --port
130  interrupted by Ctrl-C
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
from capo_client.cli.options import ApiKeyOption, JsonOption, UrlOption
from capo_client.client import CreditClient

app = typer.Typer(
    help="Voted step and token rewards from a generative process reward model (CAPO).",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Command -> the extra that it needs.
_EXTRAS = {
    "serve": "service",
    "prompt": "service",
    "check-alignment": "service",
    "train": "trainer",
    "testbed": "trainer",
}


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"capo-credit {importlib.metadata.version('capo-credit')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def info(url: UrlOption = None, api_key: ApiKeyOption = None, as_json: JsonOption = False) -> None:
    """Show the judge, tokenizers and limits of a running service."""
    with console.explained("capo info"), CreditClient(url, api_key=api_key) as client:
        service = client.info()
    if as_json:
        typer.echo(service.model_dump_json())
        return
    rows = []
    for name, value in service.model_dump().items():
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
    file: Annotated[Path, typer.Argument(help="Rollouts as JSON lines.")],
    out: Annotated[Path, typer.Option(help="Results as JSON lines.")],
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
    method: Annotated[str | None, typer.Option(help="Voting method.")] = None,
    n: Annotated[int | None, typer.Option(help="Critiques per rollout.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature of the judge.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of the judge.")] = None,
    scheme: Annotated[str | None, typer.Option(help="Reward scheme.")] = None,
    w_whole: Annotated[float | None, typer.Option(help="Weight of the outcome.")] = None,
    w_process: Annotated[float | None, typer.Option(help="Penalty of a wrong step.")] = None,
    segment: Annotated[str | None, typer.Option(help="Segmentation method.")] = None,
    pattern: Annotated[str | None, typer.Option(help="RE2 pattern for --segment regex.")] = None,
    critiques: Annotated[bool, typer.Option(help="Include the critiques' texts.")] = False,
    hide_reference: Annotated[
        bool, typer.Option(help="Do not show the reference to the judge.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Rollouts per request.")] = 16,
    concurrency: Annotated[int, typer.Option(help="Concurrent requests.")] = 8,
    deadline: Annotated[
        float,
        typer.Option(help="Timeout in seconds for every batch-size x concurrency x 4 rollouts."),
    ] = 3600,
    retry_errors: Annotated[bool, typer.Option(help="Retry lines that failed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Credit a file of rollouts with a running service.

    An interrupted run resumes when it is started again: lines with a result in --out are skipped.
    Exits with 1 if rollouts were refused, and with 3 if some have no result yet.
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
            console.complain("capo credit", error)  # the report follows
    _report(job, as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, {})}


def _run(job: FileJob, client: CreditClient, deadline: float) -> None:
    note = f"Results so far are in {job.target}; run the same command again to resume."
    with console.stoppable("capo credit", note), console.bar("rollouts") as bar:
        done = job.total - len(job.missing)
        task = bar.add_task("crediting", total=job.total, completed=done)

        def progress(_: wire.Credited | wire.Failed) -> None:
            bar.advance(task)

        job.run(client, deadline, progress)


def _report(job: FileJob, as_json: bool) -> None:
    credited, failed = len(job.results) - len(job.errors), len(job.errors)
    first = json.loads(job.results[min(job.errors)]) if job.errors else None
    if as_json:
        report = {
            "rollouts": job.total,
            "credited": credited,
            "errors": failed,
            "missing": len(job.missing),
            "out": str(job.target),
            "first_error": first and {"line": first["line"], **first["error"]},
        }
        typer.echo(json.dumps(report))
    else:
        typer.echo(f"{credited} of {job.total} rollouts credited, {failed} errors, in {job.target}")
        if first is not None:
            typer.echo(f"first error: line {first['line']}: {first['error']['detail']}")
        if job.missing:
            typer.echo(f"{len(job.missing)} without a result: run the same command again to resume")
    if job.missing:
        raise typer.Exit(3)
    if job.errors:
        raise typer.Exit(1)


app.command()(demo)
app.command()(attack)
app.command("eval")(evaluate)


def add_commands(words: Sequence[str]) -> None:
    """Add the commands of other packages; one without its dependencies says what to install.

    Args:
        words: the command line. Only commands in it are imported, because FastAPI would slow the
            start of `capo credit`; the others are added by name, for shell completion.
    """
    load_all = not words or words[0] in ("--help", "-h")
    for entry in importlib.metadata.entry_points(group="capo.commands"):
        if not load_all and entry.name not in words:
            app.command(entry.name)(lambda: None)
            continue
        try:
            app.command(entry.name)(entry.load())
        except ImportError as error:
            if (error.name or "").startswith("capo_"):
                raise  # a fault of this package, not a missing dependency
            _add_missing(entry.name, error)


def _add_missing(name: str, error: ImportError) -> None:
    """A command that only says what to install, whatever its options."""

    def command() -> None:
        console.complain(
            f"capo {name}",
            f"a package is not installed ({error}): pip install {_extra(name)}",
        )
        raise typer.Exit(2)

    app.command(
        name,
        help=escape(f"Needs: pip install {_extra(name)}"),  # Rich would read [service] as a style
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
