"""The `capo` command. Other packages add commands by the entry-point group `capo.commands`.

Exit codes are the same for all commands: see `exit_codes`.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from capo_client.cli import console, usage
from capo_client.cli.attack.run import attack
from capo_client.cli.credit import credit
from capo_client.cli.demo import demo
from capo_client.cli.doctor.run import doctor
from capo_client.cli.evaluate.run import evaluate
from capo_client.cli.exit_codes import MEANINGS, USAGE
from capo_client.cli.options import ApiKeyOption, JsonOption, UrlOption
from capo_client.cli.runs import runs
from capo_client.client import CreditClient

app = typer.Typer(
    help="Voted step and token rewards from a generative process reward model (CAPO).",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # which joins the lines of a paragraph
    pretty_exceptions_show_locals=False,
    epilog="CAPO_URL and CAPO_API_KEY stand for --url and --api-key (`capo demo` starts a service "
    "of its own unless it is given --url).\n\nExit codes: "
    + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()),
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
        typer.Option(
            "--version", metavar="", callback=_show_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    pass


@app.command(cls=usage.Command)
def info(url: UrlOption = None, api_key: ApiKeyOption = None, as_json: JsonOption = False) -> None:
    """Show the judge, tokenizers and limits of a running service."""
    with console.explained("capo info"), CreditClient(url, api_key=api_key) as client:
        service = client.info()
    if as_json:
        typer.echo(service.model_dump_json())
        return
    rows = [
        (name.replace("_", " "), _plain(name, value))
        for name, value in service.model_dump().items()
    ]
    console.show(("", "this service"), rows, left=2)


def _plain(name: str, value: object) -> str:
    if name == "tokenizers" and not value:
        return "none (add some with capo serve --tokenizer NAME=PATH, or send token_offsets)"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_number(number)}" for key, number in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return _number(value)


def _number(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else str(value)


app.command(cls=usage.Command)(doctor)
app.command(cls=usage.Command)(credit)
app.command(cls=usage.Command)(demo)
app.command(cls=usage.Command)(attack)
app.command("eval", cls=usage.Command)(evaluate)
app.command(cls=usage.Command)(runs)


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
            command = entry.load()
            kind = getattr(command, "command_class", usage.Command)  # `capo serve` parses its own
            app.command(entry.name, cls=kind)(command)
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
        raise typer.Exit(USAGE)

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
    sys.exit(usage.run(app))


if __name__ == "__main__":
    main()
