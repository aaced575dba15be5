"""Step precision and recall of the experiment's real judges, before anything is learnt.

    python -m capo_testbed.experiment.judges        # writes build/experiment/judges.json

Each judge credits the same rollouts of the starting policy, through the service and with the
settings of its runs, and the checker says which steps are wrong. Needs the testbed and vLLM.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from transformers import PreTrainedTokenizerBase

from capo_testbed.experiment.questions import GRPO, all_settings
from capo_testbed.experiment.settings import STORIES, Scale, Setting, recipe_of
from capo_testbed.serving import serving
from capo_testbed.tasks import check, split
from capo_trainer.credit_source import make_source
from capo_trainer.paths import testbed_folder
from capo_trainer.types import StepSamples

FILE = "judges.json"
# One setting for each real judge, with one greedy critique, or as it is used.
MEASURED = ("capo-greedy", "capo-majority", "judge-f80", "judge-f60", "thinking-0", "thinking-256")


@dataclass(frozen=True, slots=True)
class Measured:
    """A judge on rollouts of the starting policy. `judge`: the setting that uses it."""

    judge: str
    precision: float
    recall: float
    f1: float
    rollouts: int
    steps: int
    wrong_steps: int
    uncredited: int


def measured(name: str, samples: StepSamples) -> Measured:
    """Compare the credit of rollouts with the truth.

    Args:
        name: of the setting.
        samples: rollouts with their credit; those without are counted and left out.
    """
    hits = named = actual = steps = counted = 0
    credits = samples.credit.credits if samples.credit else {}
    for position, credit in credits.items():
        rollout = samples.rollouts[position]
        truth = check(rollout.request.prompt.question, split(rollout.text))
        if len(truth) != len(credit.wrong):
            continue  # the service joined steps that are too short
        counted += 1
        steps += len(truth)
        hits += sum(said and wrong for said, wrong in zip(credit.wrong, truth, strict=True))
        named += sum(credit.wrong)
        actual += sum(truth)
    return Measured(
        judge=name,
        precision=hits / max(named, 1),
        recall=hits / max(actual, 1),
        f1=2 * hits / max(named + actual, 1),
        rollouts=counted,
        steps=steps,
        wrong_steps=actual,
        uncredited=len(samples.rollouts) - counted,
    )


def sampled(prompts: int, testbed: Path) -> tuple[StepSamples, PreTrainedTokenizerBase]:
    """The rollouts of a run's first step, with more questions, and the policy's tokenizer."""
    from capo_trainer.run import start_run
    from capo_trainer.train import make_requests, sample_and_credit

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as resources:
        recipe = recipe_of(GRPO, 0, Scale(steps=1, prompts=prompts), testbed, Path(scratch))
        run = start_run(recipe, resources)
        return sample_and_credit(run, make_requests(run, 0)), run.tokenizer


def measure(settings: Sequence[Setting], prompts: int, testbed: Path, logs: Path) -> list[Measured]:
    """Measure the judges of settings on the same rollouts, service by service."""
    samples, tokenizer = sampled(prompts, testbed)
    found = []
    for served in dict.fromkeys(setting.served for setting in settings):
        with contextlib.ExitStack() as resources:
            url = None
            if served is not None:
                log = logs / f"judges-{served.judge}.log"
                url = resources.enter_context(serving(served.judge, log, served.arguments))
            for setting in settings:
                if setting.served != served:
                    continue
                recipe = recipe_of(setting, 0, Scale(), testbed, logs, url)
                with contextlib.closing(make_source(recipe, tokenizer, 0)) as source:
                    samples.credit = source.credit_all(samples.rollouts, samples.outcomes)
                found.append(measured(setting.name, samples))
                typer.echo(json.dumps(asdict(found[-1])))
    return found


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("build/experiment"),
    prompts: Annotated[int, typer.Option(help="Questions, with 8 rollouts each.")] = 100,
    only: Annotated[list[str] | None, typer.Option(help="Settings by name; repeatable.")] = None,
) -> None:
    """Measure the real judges' step precision and recall."""
    known = all_settings()
    names = [name for name in MEASURED if name in known and (not only or name in only)]
    chosen = [known[name] for name in names if known[name].bed == STORIES]
    found = measure(chosen, prompts, testbed_folder(), out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / FILE
    path.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    typer.echo(f"written: {path}")


if __name__ == "__main__":
    typer.run(main)
