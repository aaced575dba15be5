"""`capo key`: create an API key."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from capo_service.scheduling.api_keys import KeyFileError, make_key


def key(
    name: Annotated[str, typer.Argument(help="Name of the key in logs and metrics.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print key and entry as one JSON object.")
    ] = False,
) -> None:
    """Create an API key. Prints the key to stderr and its entry for `api_keys_file` to stdout.

    capo key team-a >> keys.toml
    """
    try:
        value, entry = make_key(name)
    except KeyFileError as error:
        typer.secho(f"capo key: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps({"name": name, "key": value, "entry": entry}))
        return
    typer.echo(f"key of {name} (not stored, copy it now): {value}", err=True)
    typer.echo(entry)
