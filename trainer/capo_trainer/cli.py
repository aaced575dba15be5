"""`capo train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capo_client.cli import console
from capo_trainer.recipe import RecipeError, load_recipe
from capo_wire.assignments import parse_pairs


def train(
    config: Annotated[Path, typer.Option(help="The recipe, a TOML file.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A value in place of the recipe's, as algorithm.epochs=1."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, show every value, and stop.")
    ] = False,
) -> None:
    """Train a policy with the service's rewards; a run that was killed goes on where it was.

    For several processes: accelerate launch -m capo_client train --config RECIPE.
    """
    try:
        recipe = load_recipe(config, parse_pairs(setting, "--set"))
        if dry_run:
            typer.echo(recipe.model_dump_json(indent=2))
            typer.echo(
                f"{recipe.steps} steps of {recipe.rollouts_per_step} rollouts, "
                f"{recipe.updates} updates of {recipe.minibatch}"
            )
            return
        from capo_trainer.ppo_update import TrainingStopped
        from capo_trainer.sampling import SamplingError
        from capo_trainer.train import train as run
    except RecipeError as error:
        _stop("train", error)
    kept = (
        f"Checkpoints so far are in {recipe.output / 'checkpoints'}; run the same command again to "
        "go on after the last."
    )
    try:
        with console.stoppable("capo train", kept):
            target = run(recipe)
    except (RecipeError, TrainingStopped, SamplingError) as error:
        _stop("train", error)
    typer.echo(f"the trained policy is in {target}")


def _stop(command: str, error: Exception) -> None:
    typer.secho(f"capo {command}: {error}", err=True, fg="red")
    raise typer.Exit(2)
