"""Manners: tables and bars where a person looks, plain lines where a program reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from pydantic import ValidationError
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
from rich.text import Text

from capo_client import errors
from capo_wire.validation import field_path, message_of

INTERRUPTED = 130  # exit code after Ctrl-C: 128 and the signal's number


def show(
    headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", left: int = 1
) -> None:
    """A table for a person; for a program a line a row, with tabs between.

    Args:
        headers: the columns' names.
        rows: cells, one for each column.
        title: what the table is of.
        left: how many columns are text; the others are numbers and stand to the right.
    """
    if not sys.stdout.isatty():
        for row in (headers, *rows):
            typer.echo("\t".join(row))
        return
    table = Table(title=title or None, title_justify="left")
    for column, name in enumerate(headers):
        table.add_column(name, justify="left" if column < left else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def bar(unit: str) -> Progress:
    """A progress bar on standard error; silent where nobody looks."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def complain(command: str, message: object) -> None:
    """An error as one line on standard error."""
    typer.secho(f"{command}: {message}", err=True, fg="red")


@contextmanager
def stoppable(command: str, kept: str) -> Iterator[None]:
    """Ctrl-C ends with 130, and says what is kept of the work so far."""
    try:
        yield
    except KeyboardInterrupt:
        complain(command, f"stopped. {kept}")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def explained(command: str) -> Iterator[None]:
    """Errors of the client, and values that it refuses, as one line instead of a traceback.

    Exits with 3 where no service answers, or not in time, and with 2 where the call itself is at
    fault.
    """
    try:
        yield
    except (errors.UnavailableError, errors.DeadlineExceededError) as error:
        complain(command, error)
        raise typer.Exit(3) from None
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        where = field_path(item["loc"])
        complain(command, f"{where}: {message_of(item)}, not {item['input']!r}")
        raise typer.Exit(2) from None
    except (errors.CapoError, ValueError) as error:
        complain(command, error)
        raise typer.Exit(2) from None
