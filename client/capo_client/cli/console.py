"""Console output: rich tables on a TTY, TSV otherwise; errors as one line; exit codes."""

from __future__ import annotations

import logging
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
from capo_client.cli.exit_codes import INTERRUPTED, UNAVAILABLE, USAGE
from capo_wire.validation import field_path, message_of


def show(
    headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", left: int = 1
) -> None:
    """Print a table on a TTY, else tab-separated lines.

    Args:
        headers: names of the columns.
        rows: one cell for each column.
        title: shown above the table.
        left: the number of columns that are text; the others are numbers, aligned to the right.
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
    """A progress bar on standard error; disabled unless that is a TTY."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def complain(command: str, message: object) -> None:
    """Print an error as one line on standard error."""
    typer.secho(f"{command}: {message}", err=True, fg="red")


@contextmanager
def stoppable(command: str, note: str) -> Iterator[None]:
    """Exit with 130 on Ctrl-C. `note` says what is kept of the work so far."""
    try:
        yield
    except KeyboardInterrupt:
        complain(command, f"stopped. {note}")
        raise typer.Exit(INTERRUPTED) from None


class _LogLines(logging.Handler):
    """Prints what the client logs: that it waits, for what, and for how long."""

    def __init__(self, command: str) -> None:
        super().__init__(logging.WARNING)
        self._command = command

    def emit(self, record: logging.LogRecord) -> None:
        typer.secho(f"{self._command}: {record.getMessage()}", err=True, fg="yellow")


@contextmanager
def client_log(command: str) -> Iterator[None]:
    """Print warnings that the client logs, such as "waiting for ...", on standard error."""
    log, handler = logging.getLogger("capo_client"), _LogLines(command)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def explained(command: str) -> Iterator[None]:
    """Print warnings, errors of the client and invalid values as one line each, no traceback.

    Exits with 3 if the service is unavailable or the deadline passes, and with 2 if the command
    itself is at fault.
    """
    try:
        with client_log(command):
            yield
    except (errors.UnavailableError, errors.DeadlineExceededError) as error:
        complain(command, error)
        raise typer.Exit(UNAVAILABLE) from None
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        where = field_path(item["loc"])
        complain(command, f"{where}: {message_of(item)}, not {item['input']!r}")
        raise typer.Exit(USAGE) from None
    except (errors.CapoError, ValueError) as error:
        complain(command, error)
        raise typer.Exit(USAGE) from None
