"""`make train-demo`: a short CAPO run on the testbed, through a real service."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from capo_testbed.cli import testbed
from capo_testbed.experiment.questions import MAJORITY
from capo_testbed.experiment.settings import Scale, recipe_of
from capo_testbed.serving import serving
from capo_trainer.paths import testbed_folder
from capo_trainer.train import train


def main(
    steps: Annotated[int, typer.Option(help="Training steps.")] = 15,
    out: Annotated[Path, typer.Option(help="Folder of the run; deleted first.")] = Path(
        "build/train-demo"
    ),
    quick: Annotated[
        bool, typer.Option(help="If there is no testbed yet, make a smaller one (six minutes).")
    ] = True,
) -> None:
    """Make the testbed if it does not exist, serve its judge, and train its policy."""
    testbed(quick=quick)
    shutil.rmtree(out, ignore_errors=True)
    scale = Scale(steps=steps, every=max(steps // 3, 1))
    typer.echo("starting the service with the testbed's judge (about 20 s)")
    with serving("testbed", out / "service.log") as url:
        train(recipe_of(MAJORITY, 0, scale, testbed_folder(), out, url))
    typer.echo(f"metrics are in {out}/{MAJORITY.name}/seed-0/metrics.jsonl")


if __name__ == "__main__":
    typer.run(main)
