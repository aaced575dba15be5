"""Part of bench/agents.py: a multi-turn policy learns by three rewards, all else equal."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from agents_judges import served

from capo_testbed.agents import MOST_TURNS
from capo_testbed.agents_models import MOST_TURN_TOKENS
from capo_testbed.experiment.runs import is_done, records, run, start_worker
from capo_trainer.recipe import Recipe, make_recipe

REPLICATES = 10_000
# The same advantages (eq. 2) for all, so that the arms differ in their rewards alone. `expected`
# was written before the first run of any arm.
ARMS: dict[str, dict[str, Any]] = {
    "outcome": {"reward": "outcome"},
    "turn_credit": {"reward": "capo", "method": "greedy"},
    "random_turns": {"reward": "capo", "method": "greedy", "placement": "random"},
}
EXPECTED = {
    "outcome": "Accuracy rises slowly; wrong turns that cost no answer, such as repeated look-ups, "
    "do not become rarer.",
    "turn_credit": "The most accurate arm, and the one with the fewest wrong turns; the interval "
    "of the difference to `outcome` excludes 0.",
    "random_turns": "Below turn_credit and near `outcome`: a rollout with more wrong turns still "
    "gets more penalties, which helps, and right turns are penalised, which hurts.",
}
MEASURES = {
    "accuracy": "greedy_accuracy",
    "wrong_turns": "greedy_wrong_step_rate",
    "lucky": "greedy_lucky_rate",
    "sampled_accuracy": "sampled_accuracy",
    "sampled_wrong_turns": "sampled_wrong_step_rate",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How long each run is, and how many questions evaluate it.

    The learning rate is the testbed's. At 2e-4 a pilot of `outcome` (one seed) went from 40% to 84%
    right in 16 steps: no arm would have been left with much to gain.
    """

    steps: int = 32
    prompts: int = 12
    rollouts: int = 8
    every: int = 8
    questions: int = 300
    learning_rate: float = 1e-4


QUICK = Scale(steps=2, prompts=2, rollouts=2, every=2, questions=4)


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Where one run writes."""
    return out / arm / f"seed-{seed}"


def recipe_of(arm: str, seed: int, scale: Scale, models: Path, out: Path, url: str) -> Recipe:
    """The recipe of one run."""
    count = scale.prompts * scale.rollouts
    return make_recipe(
        {
            "output": str(run_folder(out, arm, seed)),
            "steps": scale.steps,
            "seed": seed,
            "policy": {"model": str(models / "policy")},
            "data": {
                "prompts": str(models / "train.jsonl"),
                "verifier": "capo_testbed.agents:outcome",
                "environment": "capo_testbed.agents:environment",
                "prompts_per_step": scale.prompts,
            },
            "sampling": {
                "rollouts_per_prompt": scale.rollouts,
                "temperature": 1.0,
                "top_p": 1.0,
                "max_tokens": MOST_TURN_TOKENS,
                "max_turns": MOST_TURNS,
                "batch": count,
            },
            "credit": {
                "url": url,
                "tokenizer": "agents",
                "segment": "turn",
                "bundle": scale.rollouts,
                "max_tokens": 160,
                **ARMS[arm],
            },
            "algorithm": {
                "epochs": 1,
                "minibatch": count // 2,
                "micro_batch": min(count // 2, 48),
                "kl": 0.0,
            },
            "optimiser": {
                "learning_rate": scale.learning_rate,
                "final_share": 0.1,
                "warmup": 0.1,
            },
            "evaluation": {
                "prompts": str(models / "eval.jsonl"),
                "every": scale.every,
                "limit": scale.questions,
                "samples": 1,
                "checker": "capo_testbed.agents:check",
            },
            "checkpoints": {"every": scale.steps, "keep": 1},
            "logging": {"tensorboard": False},
        }
    )


def run_missing(
    seeds: Sequence[int],
    arms: Sequence[str],
    scale: Scale,
    models: Path,
    out: Path,
    report: Callable[[str], None],
    workers: int = 1,
) -> None:
    """All runs that are not done, seed by seed; a killed one resumes from its last checkpoint."""
    missing = [
        (arm, seed) for seed in seeds for arm in arms if not is_done(run_folder(out, arm, seed))
    ]
    report(f"runs: {len(missing)} of {len(seeds) * len(arms)} to do")
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    with ExitStack() as resources:
        url = ""
        if any(arm != "outcome" for arm, _ in missing):
            url = resources.enter_context(served(models, out / "judge.log"))
        pool = resources.enter_context(ProcessPoolExecutor(workers, context, start_worker))
        started = time.monotonic()
        jobs = [
            (name, pool.submit(run, recipe_of(*name, scale, models, out, url))) for name in missing
        ]
        for number, ((arm, seed), job) in enumerate(jobs, 1):
            job.result()
            seconds = time.monotonic() - started
            report(f"{number} of {len(jobs)} after {seconds:.0f} s: {arm}, seed {seed}")


def collect(out: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Measures of each arm at each evaluation, by seed, of the runs that are done."""
    found: dict[str, Any] = {}
    for arm in ARMS:
        done = [seed for seed in seeds if is_done(run_folder(out, arm, seed))]
        if not done:
            continue
        curves = [records(run_folder(out, arm, seed), "evaluation") for seed in done]
        trained = [records(run_folder(out, arm, seed), "train") for seed in done]
        found[arm] = {
            "seeds": done,
            "expected": EXPECTED[arm],
            "steps": [record["step"] for record in curves[0]],
            **{
                name: [[at[measure] for at in curve] for curve in curves]
                for name, measure in MEASURES.items()
            },
            "uncredited": sum(each["uncredited"] for steps in trained for each in steps),
            "penalised_share": [
                fmean(each["wrong_step_rate"] or 0.0 for each in steps) for steps in trained
            ],
            "seconds": [sum(each["step_seconds"] for each in steps) for steps in trained],
        }
    return found


def interval(values: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """The mean over seeds and its 95% interval, by bootstrap (percentiles).

    With five seeds such an interval is somewhat too short; `values` has the figures of all seeds.
    """
    rng = random.Random(seed)
    means = sorted(fmean(rng.choices(values, k=len(values))) for _ in range(REPLICATES))
    return {
        "mean": fmean(values),
        "low": means[round(0.025 * (REPLICATES - 1))],
        "high": means[round(0.975 * (REPLICATES - 1))],
        "values": list(values),
    }


def results(found: dict[str, Any]) -> dict[str, Any]:
    """`accuracy_*` and `wrong_turns_*` after the last step, and differences paired by seed."""
    told: dict[str, Any] = {}
    for arm, each in found.items():
        for name in MEASURES:
            told[f"{name}_{arm}"] = interval([curve[-1] for curve in each[name]])
    for other in ("outcome", "random_turns"):
        if not {"turn_credit", other} <= found.keys():
            continue
        ours, theirs = found["turn_credit"], found[other]
        shared = [seed for seed in ours["seeds"] if seed in theirs["seeds"]]
        if shared:
            told[f"gain_over_{other}"] = interval(
                [
                    ours["accuracy"][ours["seeds"].index(seed)][-1]
                    - theirs["accuracy"][theirs["seeds"].index(seed)][-1]
                    for seed in shared
                ]
            )
    return told
