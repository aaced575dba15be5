"""Makes the runs of the experiment.

Every run starts from its bed's policy. Finished runs are not repeated; a killed one starts again
from its last checkpoint. Each run keeps the commit of the code that made it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import typer

from capo_testbed import padded_tasks
from capo_testbed.experiment.questions import QUESTIONS, all_settings
from capo_testbed.experiment.settings import QUICK, Scale, Setting, recipe_of, run_folder
from capo_testbed.serving import serving
from capo_trainer.paths import testbed_folder
from capo_trainer.recipe import Recipe

DONE = "done.json"
# By the folder of a bed.
_BUILT_BY = {"": "capo testbed", padded_tasks.FOLDER: "python -m capo_testbed.padded_build"}


def run(recipe: Recipe) -> None:
    """One run, in a worker process; its console goes to run.log."""
    from accelerate import Accelerator

    from capo_trainer.train import train

    recipe.output.mkdir(parents=True, exist_ok=True)
    with (recipe.output / "lock").open("w") as lock:
        # Questions share settings, and may be run at the same time: the second waits for the first.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_done(recipe.output):
            return
        started = time.monotonic()
        with (recipe.output / "run.log").open("a") as log, contextlib.redirect_stdout(log):
            train(recipe)
        finished = {"commit": commit(), "seconds": round(time.monotonic() - started, 1)}
        (recipe.output / DONE).write_text(json.dumps(finished) + "\n")
    Accelerator().free_memory()


def is_done(folder: Path) -> bool:
    """Whether a run is finished."""
    return (folder / DONE).exists()


def commit() -> str | None:
    """The commit of this code, with `+` if files differ from it; None outside of a checkout."""
    where = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(where), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", ":/trainer", ":/client")
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def run_all(
    settings: Sequence[Setting],
    seeds: int,
    scale: Scale,
    testbed: Path,
    out: Path,
    workers: int,
) -> None:
    """All runs that are not done, service by service and seed by seed.

    Args:
        settings: to run.
        seeds: at most so many of each setting's.
        scale: of the runs.
        testbed: folder of policies and prompts.
        out: folder of the runs.
        workers: runs in parallel.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_worker) as pool:
        for served in dict.fromkeys(setting.served for setting in settings):
            missing = [
                (setting, seed)
                for seed in range(seeds)
                for setting in settings
                if setting.served == served
                and seed < setting.seeds
                and not is_done(run_folder(out, setting, seed))
            ]
            if not missing:
                continue
            with contextlib.ExitStack() as resources:
                url = None
                if served is not None:
                    log = out / f"{served.judge}.log"
                    arguments = served.arguments_in(testbed)
                    url = resources.enter_context(serving(served.judge, log, arguments))
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


def start_worker() -> None:
    """Initialiser of a worker process: one thread, and it ends when its parent is killed."""
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def main(
    question: Annotated[
        list[str] | None, typer.Option(help="Questions by name; repeatable. Default: all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("build/experiment"),
    seeds: Annotated[int, typer.Option(help="At most so many seeds.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="Settings by name; repeatable.")] = None,
    quick: Annotated[bool, typer.Option(help="Two methods and short runs, for CI.")] = False,
    workers: Annotated[int, typer.Option(help="Runs in parallel.")] = 2,
) -> None:
    """Run the experiment; finished runs are kept."""
    known = all_settings()
    if quick:
        only = only or ["sft", "grpo", "capo-majority"]
    asked = {q.name for q in QUESTIONS if not question or q.name in question}
    names = [s.name for q in QUESTIONS if q.name in asked for s in q.settings]
    chosen = [known[name] for name in dict.fromkeys(names) if not only or name in only]
    if not chosen:
        typer.echo(
            f"nothing to run: questions are {', '.join(q.name for q in QUESTIONS)}", err=True
        )
        raise typer.Exit(2)
    testbed = testbed_folder()
    for bed in dict.fromkeys(setting.bed.folder for setting in chosen):
        if not (testbed / bed / "policy" / "config.json").exists():
            built = f"build it with `{_BUILT_BY[bed]}`"
            typer.echo(f"{testbed / bed} has no policy: {built}", err=True)
            raise typer.Exit(2)
    scale = QUICK if quick else Scale()
    run_all(chosen, seeds, scale, testbed, out, workers)
    typer.echo(f"all runs are in {out}; `python -m capo_testbed.experiment.report` sums them up")


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in a run's metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


if __name__ == "__main__":
    typer.run(main)
