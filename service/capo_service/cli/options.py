"""Options that several commands of the service take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from capo_service.settings import SettingsError

TemplateOption = Annotated[
    Path | None, typer.Option(help="A prompt template in place of the built-in.")
]
StyleOption = Annotated[str | None, typer.Option(help="`verdict`, `brief` or `full`.")]


def parse_pairs(given: list[str] | None, option: str) -> dict[str, Any]:
    """`name=value` pairs; values are JSON where they parse as such, else text."""
    found: dict[str, Any] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"{option} {pair}: write name=value")
        try:
            found[name.strip().replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            found[name.strip().replace("-", "_")] = value
    return found
