"""Does the whole loop hold on a real language model? SmolLM2-135M with the arithmetic checker.

Runs are those of recipes/smollm2_arithmetic_cpu.toml, and of GRPO with the same settings. Finished
runs are not repeated; a killed one resumes from its last checkpoint. It takes all cores, one run at
a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from capo_testbed.experiment.questions import Question
from capo_testbed.experiment.runs import is_done, run
from capo_testbed.experiment.settings import Served, Setting, run_folder
from capo_testbed.serving import SYMBOLIC, serving
from capo_testbed.word_problems import write_problems
from capo_trainer.errors import RecipeError
from capo_trainer.policy import embedded_folder
from capo_trainer.recipe import Recipe, load_recipe

RECIPE = Path(__file__).parents[3] / "recipes" / "smollm2_arithmetic_cpu.toml"
_TOKENIZER = "SmolLM2-135M-Instruct"
_CHECKER = Served(SYMBOLIC)
_SEEDS = 3

LANGUAGE_MODEL = Question(
    "language_model",
    "Does the loop hold on a real language model?",
    (
        Setting(
            "smollm2-grpo",
            "Accuracy rises by some points in 50 steps, and the share of false equations falls a "
            "little, as right answers seldom have one.",
            {"credit": {"reward": "outcome"}, "algorithm": {"advantage": "grpo"}},
            served=None,
            seeds=_SEEDS,
        ),
        Setting(
            "smollm2-capo",
            "The share of false equations falls further than with smollm2-grpo; accuracy is within "
            "three points of it, since many wrong answers come from a wrong choice of operation, "
            "which the checker does not see. The policy may also write fewer equations.",
            served=_CHECKER,
            seeds=_SEEDS,
        ),
    ),
)


def recipe_of(setting: Setting, seed: int, out: Path, url: str | None, steps: int | None) -> Recipe:
    """The recipe of one run; `steps` in place of the recipe's own makes a trial."""
    folder = run_folder(out, setting, seed)
    changes: dict[str, Any] = {
        "output": str(folder),
        "seed": seed,
        "data.prompts": str(_problems(out) / "train.jsonl"),
        "evaluation.prompts": str(_problems(out) / "eval.jsonl"),
    }
    if steps is not None:
        changes |= {"steps": steps, "evaluation.at_start": False, "evaluation.limit": 8}
    if url is not None:
        changes["credit.url"] = url
    for section, values in setting.changes.items():
        changes |= {f"{section}.{name}": value for name, value in values.items()}
    return load_recipe(RECIPE, changes)


def _problems(out: Path) -> Path:
    return out / "language-model-problems"


def run_all(
    seeds: int, out: Path, steps: int | None = None, only: Sequence[str] | None = None
) -> None:
    """Every run that is not done, seed by seed, so that each seed can be compared at once.

    Args:
        seeds: at most so many of each setting's.
        out: folder of the runs.
        steps: in place of the recipe's own.
        only: settings by name; two processes, each with its own and OMP_NUM_THREADS=1, share cores
            better than one process that takes all.

    Raises:
        RecipeError: the embedded model is not on this machine.
    """
    missing = [
        (setting, seed)
        for seed in range(seeds)
        for setting in LANGUAGE_MODEL.settings
        if seed < setting.seeds
        and (not only or setting.name in only)
        and not is_done(run_folder(out, setting, seed))
    ]
    if not missing:
        return
    write_problems(_problems(out))
    with ExitStack() as resources:
        url = None
        if any(setting.served for setting, _ in missing):
            url = resources.enter_context(_checker(out / "language-model-service.log"))
        for number, (setting, seed) in enumerate(missing, 1):
            run(recipe_of(setting, seed, out, url if setting.served else None, steps))
            typer.echo(f"{number} of {len(missing)}: {setting.name}, seed {seed}")


def _checker(log: Path) -> AbstractContextManager[str]:
    """The arithmetic checker as a service, with the policy's tokenizer."""
    return serving(SYMBOLIC, log, ("--tokenizer", f"{_TOKENIZER}={embedded_folder()}"))


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("build/experiment"),
    seeds: Annotated[int, typer.Option(help="At most so many seeds.")] = _SEEDS,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each run, for a trial; take another --out.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Settings by name; repeatable.")] = None,
) -> None:
    """Run SmolLM2-135M with GRPO and with CAPO; finished runs are kept."""
    try:
        run_all(seeds, out, steps, only)
    except RecipeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    typer.echo(f"all runs are in {out}; `capo runs {out}/smollm2-*` compares them")


if __name__ == "__main__":
    typer.run(main)
