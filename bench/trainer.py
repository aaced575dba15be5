"""Cost of credit per training step: time spent waiting for the service, and judge tokens.

    make bench-trainer

CAPO on the testbed (made first if it does not exist), with rollouts sent while others are sampled,
and with all sent at the end. Both alternate; figures are medians over steps. Judge and policy share
this machine's cores, so overlap gains less than with a GPU each. Writes build/bench/trainer.json.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from capo_testbed.cli import testbed
from capo_testbed.experiment.questions import MAJORITY
from capo_testbed.experiment.runs import records
from capo_testbed.experiment.settings import Scale, recipe_of
from capo_testbed.serving import serving
from capo_trainer.paths import testbed_folder
from capo_trainer.recipe import make_recipe
from capo_trainer.train import train

OUT = Path("build/bench")
ROUNDS, STEPS = 3, 6


def main() -> None:
    testbed(folder=None, quick=False, seed=0, force=False)
    work = OUT / "trainer"
    shutil.rmtree(work, ignore_errors=True)
    taken: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    with serving("testbed", work / "service.log") as url:
        for turn in range(ROUNDS):
            for overlap in (True, False):
                # A seed each, so that no result is cached for the other.
                seed = 2 * turn + overlap
                recipe = recipe_of(MAJORITY, seed, Scale(steps=STEPS), testbed_folder(), work, url)
                values = recipe.model_dump(mode="json", exclude={"evaluation"})
                values["output"] = str(work / f"{turn}-{overlap}")
                values["credit"] |= {"overlap": overlap, "bundle": 4}
                values["sampling"]["batch"] = 24
                with contextlib.redirect_stdout(io.StringIO()):
                    train(make_recipe(values))
                AcceleratorState._reset_state()
                taken[overlap] += records(Path(values["output"]), "train")[1:]  # the first warms up
    Accelerator().end_training()
    result = summary(taken)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "trainer.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        print(f"{name:32} {value:10.3f}" if isinstance(value, float) else f"{name:32} {value:10}")


def summary(taken: dict[bool, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over steps; shares are of a step's whole time."""

    def share(steps: list[dict[str, Any]]) -> float:
        return median(step["wait_seconds"] / step["step_seconds"] for step in steps)

    everything = [step for steps in taken.values() for step in steps]
    read = sum(s["judge_prompt_tokens"] - s["judge_cached_tokens"] for s in everything)
    written = sum(s["judge_completion_tokens"] for s in everything)
    trained = sum(s["tokens"] for s in everything)
    return {
        "wait_share": share(taken[True]),
        "wait_share_no_overlap": share(taken[False]),
        "step_seconds": median(step["step_seconds"] for step in taken[True]),
        "step_seconds_no_overlap": median(step["step_seconds"] for step in taken[False]),
        "judge_tokens_per_train_token": (read + written) / trained,
        "judge_written_tokens_per_train_token": written / trained,
        "steps": len(everything),
        "rollouts_per_step": everything[0]["rollouts"],
    }


if __name__ == "__main__":
    main()
