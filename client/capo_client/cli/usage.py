"""How command lines are parsed: former options still work, and usage errors are one line."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand

from capo_client.cli import console
from capo_client.cli.exit_codes import FAILURES, USAGE

# By command: former options -> those of today, and former negations -> the flags that they cancel.
_RENAMED = {
    "attack": {"--deadline": "--timeout"},
    "credit": {"--deadline": "--timeout", "--no-hide-reference": "--show-reference"},
    "eval": {"--deadline": "--timeout"},
    "testbed": {"--again": "--force"},
}
_CANCELLED = {
    "credit": {"--no-critiques": "--critiques", "--no-retry-errors": "--retry-errors"},
    "demo": {"--no-keep": "--keep"},
    "testbed": {"--no-again": "--force", "--no-quick": "--quick"},
}

# Typer publishes click's BadParameter, and neither its base class nor NoSuchOption.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


class Command(TyperCommand):
    """A command that also takes the former names of its options, which its help does not show."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, with former options replaced by those of today."""
        try:
            return super().parse_args(ctx, modernised(self.name or "", args))
        except _UsageError as error:
            error.ctx = error.ctx or ctx  # the parser does not know the command
            raise


def modernised(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command with its former options replaced."""
    renamed, cancelled = _RENAMED.get(command, {}), _CANCELLED.get(command, {})
    found: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[position:]]
        name, equals, value = argument.partition("=")
        if argument in cancelled:
            found = [each for each in found if each != cancelled[argument]]
        else:
            found.append(renamed.get(name, name) + equals + value)
    return found


def run(app: typer.Typer) -> int:
    """Run the command line of this process; returns the exit code."""
    try:
        code = app(standalone_mode=False, prog_name="capo")
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            command = error.ctx.command_path if error.ctx else "capo"
            console.complain(command, f"{_message(error)} (see {command} --help)")
        return USAGE
    except typer.Abort:
        console.complain("capo", "aborted")
        return FAILURES
    return code if isinstance(code, int) else 0


def _message(error: Any) -> str:
    """A usage error as one sentence, with the nearest option if one does not exist."""
    if (wrong := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
        close = get_close_matches(wrong, error.possibilities or (), 1, 0.0)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"no such option: {wrong}{hint}"
    text = " ".join(str(error.format_message()).split()).rstrip(".").replace("Value error, ", "")
    return text[:1].lower() + text[1:]
