"""`capo testbed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from capo_client.cli import console
from capo_trainer.paths import testbed_folder


def testbed(
    folder: Annotated[
        Path | None, typer.Option(help="Where it is made.", show_default="the user's cache")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Smaller and worse, for CI.")] = False,
    seed: int = 0,
    again: Annotated[bool, typer.Option(help="Make it anew if it is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Make the testbed: a tiny policy, and its judges, for `capo serve --model testbed`."""
    from capo_testbed.build import build, is_made
    from capo_testbed.common import QUICK, Sizes

    target = folder or testbed_folder()
    sizes = QUICK if quick else Sizes()
    if not again and is_made(target, sizes, seed):
        there = {"folder": str(target)}
        typer.echo(json.dumps(there) if as_json else f"the testbed is in {target}")
        return
    with console.stoppable("capo testbed", "Nothing is kept of an unfinished testbed."):
        found = build(target, sizes, seed, lambda line: typer.echo(line, err=as_json))
    typer.echo(json.dumps(found, indent=2))
    if not as_json:
        typer.echo(f"the testbed is in {target}, after {found['seconds']} s")
