"""`capo key`: make an API key."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from capo_service.scheduling.api_keys import KeyFileError, make_key


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is, as logs will call it.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Key and entry as one JSON object on standard output.")
    ] = False,
) -> None:
    """Make an API key: the key on standard error, its entry for `api_keys_file` on standard output.

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
    typer.echo(f"{name}'s key, shown only now: {value}", err=True)
    typer.echo(entry)
