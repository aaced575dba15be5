"""The experiment: CAPO's credit against outcome rewards, on tasks with known step truth.

Every run starts from the testbed's policy and learns with equal rollouts and updates, through a
real service that serves the testbed's judge by vLLM. Finished runs are not repeated; a killed one
resumes from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from capo_testbed.serving import serving
from capo_trainer.paths import testbed_folder
from capo_trainer.recipe import Recipe, make_recipe

Part = Literal["methods", "ablations"]
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the report: what differs from `capo-majority`, and which judge is served."""

    name: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    judge: str = "testbed"


def _credit(**changes: Any) -> dict[str, dict[str, Any]]:
    return {"credit": changes}


SFT = Setting("sft", {"credit": {"reward": "outcome"}, "evaluation": {"at_start": True}})
METHODS = (
    Setting("grpo", {"credit": {"reward": "outcome"}, "algorithm": {"advantage": "grpo"}}),
    Setting(
        "grpo-genorm",
        {"credit": {"reward": "generative_outcome"}, "algorithm": {"advantage": "grpo"}},
    ),
    Setting("capo-greedy", _credit(method="greedy")),
    Setting("capo-intersection", _credit(method="intersection")),
    Setting("capo-majority"),
    Setting("capo-union", _credit(method="union")),
    Setting("capo-average", _credit(method="average")),
)
ABLATIONS = (
    *(Setting(f"w-process-{w:g}", _credit(w_process=w)) for w in (0.1, 2.0, 5.0)),
    *(Setting(f"critiques-{k}", _credit(n=k)) for k in (1, 2, 8)),
    # Eq. 2's advantages without a judge.
    Setting("no-process", _credit(reward="outcome")),
    Setting("no-reference", _credit(show_reference=False)),
    *(Setting(f"advantage-{a}", {"algorithm": {"advantage": a}}) for a in ("papo", "vppo", "rloo")),
    Setting("judge-f80", judge="testbed-f80"),
    Setting("judge-f60", judge="testbed-f60"),
)
SETTINGS: dict[Part, tuple[Setting, ...]] = {"methods": (SFT, *METHODS), "ablations": ABLATIONS}


@dataclass(frozen=True, slots=True)
class ExperimentScale:
    """How long each run is."""

    steps: int = 32
    prompts: int = 12
    rollouts: int = 8
    every: int = 8
    questions: int = 400


QUICK = ExperimentScale(steps=10, every=10)


def recipe_of(
    setting: Setting, seed: int, scale: ExperimentScale, testbed: Path, out: Path, url: str
) -> Recipe:
    """The recipe of one run."""
    values: dict[str, dict[str, Any]] = {
        "policy": {"model": str(testbed / "policy")},
        "data": {
            "prompts": str(testbed / "train.jsonl"),
            "verifier": "capo_testbed.tasks:outcome",
            "prompts_per_step": scale.prompts,
        },
        "sampling": {
            "rollouts_per_prompt": scale.rollouts,
            "temperature": 1.0,
            "top_p": 1.0,
            "max_tokens": 96,
            "batch": scale.prompts * scale.rollouts // 2,
        },
        "credit": {
            "url": url,
            "tokenizer": setting.judge,
            "bundle": scale.rollouts,
            "max_tokens": 160,
        },
        "algorithm": {
            "epochs": 1,
            "minibatch": scale.prompts * scale.rollouts // 2,
            "micro_batch": 64,
            "kl": 0.0,
        },
        "optimiser": {"learning_rate": 1e-4, "final_share": 0.1, "warmup": 0.1},
        "evaluation": {
            "prompts": str(testbed / "eval.jsonl"),
            "every": scale.every,
            "limit": scale.questions,
            "at_start": False,
            "checker": "capo_testbed.tasks:check",
        },
        "checkpoints": {"every": scale.steps, "keep": 1},
        "logging": {"tensorboard": False},
    }
    for section, changes in setting.changes.items():
        values[section] = values[section] | changes
    return make_recipe(
        {
            "output": str(run_folder(out, setting, seed)),
            "steps": 0 if setting is SFT else scale.steps,
            "seed": seed,
            **values,
        }
    )


def run_folder(out: Path, setting: Setting, seed: int) -> Path:
    """Where one run writes."""
    return out / setting.name / f"seed-{seed}"


def run(recipe: Recipe) -> None:
    """One run, in a worker process; its console goes to run.log."""
    from accelerate import Accelerator

    from capo_trainer.train import train

    recipe.output.mkdir(parents=True, exist_ok=True)
    with (recipe.output / "run.log").open("a") as log, contextlib.redirect_stdout(log):
        train(recipe)
    (recipe.output / "done").touch()
    Accelerator().free_memory()


def run_all(
    settings: Sequence[Setting],
    seeds: Sequence[int],
    scale: ExperimentScale,
    testbed: Path,
    out: Path,
    workers: int,
) -> None:
    """All runs that are not done, judge by judge and seed by seed."""
    judges = list(dict.fromkeys(setting.judge for setting in settings))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _one_thread) as pool:
        for judge in judges:
            missing = [
                (setting, seed)
                for seed in seeds
                for setting in settings
                if setting.judge == judge
                and not (run_folder(out, setting, seed) / "done").exists()
                and (setting is not SFT or seed == seeds[0])  # nothing in it is random
            ]
            if not missing:
                continue
            with serving(judge, out / f"{judge}.log") as url:
                jobs: dict[Future[None], str] = {
                    pool.submit(run, recipe_of(setting, seed, scale, testbed, out, url)): (
                        f"{setting.name}, seed {seed}"
                    )
                    for setting, seed in missing
                }
                started = time.monotonic()
                for number, job in enumerate(as_completed(jobs), 1):
                    job.result()
                    seconds = time.monotonic() - started
                    typer.echo(f"{number} of {len(jobs)} after {seconds:.0f} s: {jobs[job]}")


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def main(
    part: Annotated[str, typer.Option(help="`methods`, `ablations` or `all`.")] = "all",
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("build/experiment"),
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = len(SEEDS),
    only: Annotated[list[str] | None, typer.Option(help="Settings by name; repeatable.")] = None,
    quick: Annotated[bool, typer.Option(help="Two methods and short runs, for CI.")] = False,
    workers: Annotated[int, typer.Option(help="Runs in parallel.")] = 2,
) -> None:
    """Run the experiment; finished runs are kept."""
    parts: tuple[Part, ...] = ("methods", "ablations")
    settings = [s for p in parts if part in (p, "all") for s in SETTINGS[p]]
    if quick:
        only = only or ["sft", "grpo", "capo-majority"]
    chosen = [s for s in settings if not only or s.name in only]
    run_all(
        chosen, SEEDS[:seeds], QUICK if quick else ExperimentScale(), testbed_folder(), out, workers
    )
    typer.echo(f"all runs are in {out}; `python -m capo_testbed.report` sums them up")


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in a run's metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


if __name__ == "__main__":
    typer.run(main)
