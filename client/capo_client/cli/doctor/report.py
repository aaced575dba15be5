"""The results of checks, shown as they come."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo_client.cli.exit_codes import FAILURES, SUCCESS

Status = Literal["ok", "warning", "failed"]
_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One result. `advice`: what to change, or what can be changed."""

    check: str
    status: Status
    detail: str
    advice: str = ""


class CannotGoOn(Exception):
    """A check failed that all further ones need. `code`: the exit code of the command."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Report:
    """The checks of one service.

    Args:
        url: the service's URL.
        is_quiet: whether nothing is shown while checks run.

    Attributes:
        measured: figures of the measurement, by name.
    """

    def __init__(self, url: str, is_quiet: bool = False) -> None:
        self.url = url
        self.checks: list[Check] = []
        self.measured: dict[str, float] = {}
        self._is_quiet = is_quiet

    @property
    def code(self) -> int:
        """The exit code: 1 if a check failed."""
        return FAILURES if self.count("failed") else SUCCESS

    def count(self, status: Status) -> int:
        """The number of checks with this status."""
        return sum(check.status == status for check in self.checks)

    def ok(self, name: str, detail: str, advice: str = "") -> None:
        """Note a check that passed."""
        self._add(Check(name, "ok", detail, advice))

    def warn(self, name: str, detail: str, advice: str) -> None:
        """Note something that works and should be changed."""
        self._add(Check(name, "warning", detail, advice))

    def fail(self, name: str, detail: str, advice: str) -> None:
        """Note a check that failed, and go on."""
        self._add(Check(name, "failed", detail, advice))

    def stop(self, name: str, detail: str, advice: str, code: int) -> NoReturn:
        """Note a check that failed, and end with this exit code.

        Raises:
            CannotGoOn: always.
        """
        self.fail(name, detail, advice)
        raise CannotGoOn(code)

    def working(self, what: str) -> AbstractContextManager[object]:
        """Show on a terminal that something takes its time."""
        if self._is_quiet or not sys.stderr.isatty():
            return nullcontext()
        return Console(stderr=True).status(what)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        checks = [asdict(check) for check in self.checks]
        return {"url": self.url, "checks": checks, "measured": self.measured}

    def _add(self, check: Check) -> None:
        self.checks.append(check)
        if self._is_quiet:
            return
        if sys.stdout.isatty():
            _show(check)
        else:
            typer.echo("\t".join([check.status, check.check, check.detail, check.advice]).rstrip())

    def summary(self) -> str:
        """How many checks passed."""
        failed, warnings = self.count("failed"), self.count("warning")
        return f"{len(self.checks)} checks: {failed} failed, {warnings} with a warning"


def _show(check: Check) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=7)
    table.add_column(width=10)
    table.add_column(overflow="fold")
    detail = Text(check.detail)
    if check.advice:
        detail.append(f"\n-> {check.advice}", style="bold" if check.status != "ok" else "dim")
    table.add_row(Text(check.status, style=_STYLES[check.status]), Text(check.check), detail)
    Console(highlight=False).print(table)
