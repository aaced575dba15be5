"""One setting of the experiment, and its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capo_trainer.recipe import Recipe, make_recipe

Changes = Mapping[str, Mapping[str, Any]]

SEEDS = 5
SIMULATED = "capo_testbed.simulated:SimulatedJudge"


@dataclass(frozen=True, slots=True)
class Served:
    """A service that runs need: the judge's name, and further arguments of `capo serve`.

    In arguments, `{testbed}` stands for the testbed's folder.
    """

    judge: str = "testbed"
    arguments: tuple[str, ...] = ()

    def arguments_in(self, testbed: Path) -> list[str]:
        """The arguments, for a testbed in this folder."""
        return [each.replace("{testbed}", str(testbed)) for each in self.arguments]


@dataclass(frozen=True, slots=True)
class Bed:
    """A policy, its tasks and what decides them; `folder` is a part of the testbed's folder."""

    folder: str = ""
    tasks: str = "capo_testbed.tasks"
    max_tokens: int = 96


STORIES = Bed()
TESTBED = Served()


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the report.

    Args:
        name: of the setting; runs are in a folder of this name.
        expected: what was expected of it, written before its first run.
        changes: of the recipe, by section.
        served: the service that credits its rollouts; None: it needs none.
        bed: where its policy learns.
        seeds: number of seeds.
        scale: in place of the experiment's own, as (steps, rollouts of a question).
    """

    name: str
    expected: str
    changes: Changes = field(default_factory=dict)
    served: Served | None = TESTBED
    bed: Bed = STORIES
    seeds: int = SEEDS
    steps: int | None = None
    rollouts: int | None = None


def simulated(
    name: str,
    expected: str,
    options: Mapping[str, Any] | None = None,
    changes: Changes | None = None,
    bed: Bed = STORIES,
    **others: Any,
) -> Setting:
    """A setting whose judge is simulated from the truth (`capo_testbed.simulated.Rates`)."""
    merged = {section: dict(values) for section, values in (changes or {}).items()}
    rates = dict(options or {})
    if bed != STORIES:
        rates["checker"] = f"{bed.tasks}:check"
    credit = {"source": SIMULATED, "source_options": rates}
    merged["credit"] = credit | merged.get("credit", {})
    return Setting(name, expected, merged, served=None, bed=bed, **others)


@dataclass(frozen=True, slots=True)
class Scale:
    """How long each run is."""

    steps: int = 32
    prompts: int = 12
    rollouts: int = 8
    every: int = 8
    questions: int = 400


QUICK = Scale(steps=10, every=10)


def run_folder(out: Path, setting: Setting, seed: int) -> Path:
    """Where one run writes."""
    return out / setting.name / f"seed-{seed}"


def recipe_of(
    setting: Setting, seed: int, scale: Scale, testbed: Path, out: Path, url: str | None = None
) -> Recipe:
    """The recipe of one run."""
    bed = setting.bed
    folder = testbed / bed.folder
    rollouts = setting.rollouts or scale.rollouts
    steps = scale.steps if setting.steps is None else setting.steps
    values: dict[str, dict[str, Any]] = {
        "policy": {"model": str(folder / "policy")},
        "data": {
            "prompts": str(folder / "train.jsonl"),
            "verifier": f"{bed.tasks}:outcome",
            "prompts_per_step": scale.prompts,
        },
        "sampling": {
            "rollouts_per_prompt": rollouts,
            "temperature": 1.0,
            "top_p": 1.0,
            "max_tokens": bed.max_tokens,
            "batch": min(scale.prompts * rollouts // 2, 96),
        },
        "credit": {
            "url": url,
            "tokenizer": setting.served.judge if setting.served else "testbed",
            "bundle": rollouts,
            "max_tokens": 160,
        },
        "algorithm": {
            "epochs": 1,
            "minibatch": scale.prompts * rollouts // 2,
            "micro_batch": 64,
            "kl": 0.0,
        },
        "optimiser": {"learning_rate": 1e-4, "final_share": 0.1, "warmup": 0.1},
        "evaluation": {
            "prompts": str(folder / "eval.jsonl"),
            "every": scale.every,
            "limit": scale.questions,
            "at_start": False,
            "checker": f"{bed.tasks}:check",
        },
        "checkpoints": {"every": max(steps, 1), "keep": 1},
        "logging": {"tensorboard": False},
    }
    for section, changes in setting.changes.items():
        values[section] = values[section] | dict(changes)
    if "source_options" in values["credit"]:  # each run has errors of its own
        values["credit"]["source_options"] = {**values["credit"]["source_options"], "seed": seed}
    output = str(run_folder(out, setting, seed))
    return make_recipe({"output": output, "steps": steps, "seed": seed, **values})
