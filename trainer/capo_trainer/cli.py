"""`capo train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from capo_client.addresses import parse_urls
from capo_client.cli import console
from capo_trainer.errors import TrainerError
from capo_trainer.recipe import load_recipe
from capo_wire.assignments import parse_pairs


def train(
    config: Annotated[Path, typer.Option(metavar="FILE", help="The recipe, a TOML file.")],
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Override a value of the recipe, such as algorithm.epochs=1; repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", metavar="", help="Check the recipe, print every value, and exit."
        ),
    ] = False,
) -> None:
    """Train a policy with the service's rewards; an interrupted run resumes from its checkpoint.

    For several processes: accelerate launch -m capo_client train --config RECIPE.
    """
    try:
        recipe = load_recipe(config, parse_pairs(setting, "--set"))
        url = recipe.credit.url or os.environ.get("CAPO_URL")
        if url and recipe.credit.reward != "outcome":
            parse_urls(url)  # before the policy is loaded, which takes minutes
    except ValueError as error:  # a RecipeError is one
        _stop(error)
    if dry_run:
        typer.echo(recipe.model_dump_json(indent=2))
        typer.echo(
            f"{recipe.steps} steps of {recipe.rollouts_per_step} rollouts, "
            f"{recipe.updates} updates of {recipe.minibatch}"
        )
        return
    from capo_trainer.train import train as run

    kept = (
        f"Checkpoints so far are in {recipe.output / 'checkpoints'}; run the same command again to "
        "resume from the last one."
    )
    try:
        with console.stoppable("capo train", kept):
            target = run(recipe)
    except TrainerError as error:
        _stop(error)
    typer.echo(f"the trained policy is in {target}")


def _stop(error: Exception) -> NoReturn:
    typer.secho(f"capo train: {error}", err=True, fg="red")
    raise typer.Exit(2)
