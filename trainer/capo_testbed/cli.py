"""`capo testbed`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

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
    thinking: Annotated[
        bool,
        typer.Option(
            "--thinking", metavar="", help="Also train `testbed-thinking`, a judge that thinks."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed of data and models.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Build it again if it exists.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build the testbed: a tiny policy and its judges, for `capo serve --model testbed`."""
    from capo_testbed import thinking_judge
    from capo_testbed.build import build, is_made
    from capo_testbed.common import QUICK, Sizes

    target = folder or testbed_folder()
    sizes = QUICK if quick else Sizes()

    def say(line: str) -> None:
        typer.echo(line, err=as_json)

    made: dict[str, Any] = {}
    with console.stoppable("capo testbed", "An unfinished testbed is not kept."):
        if force or not is_made(target, sizes, seed):
            made = build(target, sizes, seed, say)
        if thinking and (force or made or not thinking_judge.is_made(target, seed)):
            made["thinking"] = thinking_judge.build(target, sizes, seed, say)
    if made or as_json:
        typer.echo(json.dumps(made or {"folder": str(target)}, indent=2 if made else None))
    if not as_json:
        after = f", after {made['seconds']} s" if "seconds" in made else ""
        typer.echo(f"the testbed is in {target}{after}")
