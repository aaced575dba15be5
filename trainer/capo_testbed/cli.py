"""`capo testbed`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from capo_client.cli import console
from capo_client.cli.options import JsonOption
from capo_trainer.paths import testbed_folder

if find_spec("torch") is None:  # tells `capo` what to install; importing torch takes seconds
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


def testbed(
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where it is built.", show_default="in the user's cache folder"
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", metavar="", help="Train smaller, less accurate models, for CI."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed of data and models.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Build it again if it exists.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build the testbed: a tiny policy and its judges, for `capo serve --model testbed`."""
    from capo_testbed.build import build, is_made
    from capo_testbed.common import QUICK, Sizes

    target = folder or testbed_folder()
    sizes = QUICK if quick else Sizes()
    if not force and is_made(target, sizes, seed):
        typer.echo(
            json.dumps({"folder": str(target)}) if as_json else f"the testbed is in {target}"
        )
        return
    with console.stoppable("capo testbed", "An unfinished testbed is not kept."):
        summary = build(target, sizes, seed, lambda line: typer.echo(line, err=as_json))
    typer.echo(json.dumps(summary, indent=2))
    if not as_json:
        typer.echo(f"the testbed is in {target}, after {summary['seconds']} s")
