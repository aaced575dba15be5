"""Builds the bed of padded solutions, `padded` in the testbed's folder: policy and prompt files.

The policy is the testbed's, trained further on demonstrations with easy lines and mistakes
(`capo_testbed.padded_tasks`), so that all but those lines is as in the stories.

    python -m capo_testbed.padded_build
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_testbed import models, padded_tasks, tasks
from capo_testbed.build import demonstrations
from capo_testbed.common import (
    Report,
    every,
    held_out_tasks,
    policy_prompt,
    repeatable,
    sample,
    stream,
)
from capo_testbed.padded_tasks import FOLDER, MAX_TOKENS
from capo_testbed.tasks import Task
from capo_trainer.paths import testbed_folder

_SUMMARY = "padded.json"
_UPDATES, _BATCH, _LEARNING_RATE = 400, 32, 5e-3
_HELD_OUT = 400


@repeatable()
def build(
    testbed: Path,
    seed: int,
    report: Report,
    updates: int = _UPDATES,
    held_out: int = _HELD_OUT,
) -> dict[str, Any]:
    """Build the bed in a built testbed's folder.

    Args:
        testbed: the folder of `capo testbed`.
        seed: of the demonstrations.
        report: told the progress.
        updates: of training.
        held_out: tasks that the policy is measured on.

    Returns:
        The content of padded.json: what was measured of the policy on held-out tasks.

    Raises:
        FileNotFoundError: the testbed has no policy.
    """
    started = time.monotonic()
    start = testbed / "policy"
    if not (start / "config.json").exists():
        raise FileNotFoundError(f"{start} has no policy: build it first with `capo testbed`")
    folder = testbed / FOLDER
    folder.mkdir(exist_ok=True)
    for name in ("train.jsonl", "eval.jsonl"):
        shutil.copyfile(testbed / name, folder / name)
    questions = held_out_tasks(held_out)
    model = LlamaForCausalLM.from_pretrained(start)
    tokenizer = AutoTokenizer.from_pretrained(start, padding_side="left")
    _train(model, tokenizer, questions, seed, updates, report)
    models.save(model, tokenizer, folder / "policy")
    summary = {
        "seed": seed,
        "updates": updates,
        "greedy": _quality(model, tokenizer, questions, 0.0),
        "sampled": _quality(model, tokenizer, questions, 1.0),
        "seconds": round(time.monotonic() - started),
    }
    (folder / _SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def is_made(testbed: Path) -> bool:
    """Whether the bed exists in a testbed's folder."""
    return (testbed / FOLDER / _SUMMARY).exists()


def _train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    held_out: Sequence[Task],
    seed: int,
    updates: int,
    report: Report,
) -> None:
    torch.manual_seed(seed)
    rng = stream(f"{seed} padded")
    models.train(
        model,
        lambda: demonstrations(tokenizer, rng, held_out, padded_tasks.demonstrate),
        updates=updates,
        batch=_BATCH,
        learning_rate=_LEARNING_RATE,
        pad=tokenizer.pad_token_id,
        after=every(50, "padded policy", report),
    )


def _quality(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Task],
    temperature: float,
) -> dict[str, float]:
    torch.manual_seed(0)
    prompts = [policy_prompt(tokenizer, task.question) for task in questions]
    texts = sample(
        model, tokenizer, prompts, temperature=temperature, max_new_tokens=MAX_TOKENS, batch=100
    )
    wrong = [
        padded_tasks.check(task.question, tasks.split(text))
        for task, text in zip(questions, texts, strict=True)
    ]
    steps = max(sum(map(len, wrong)), 1)
    lines = [line for text in texts for line in tasks.split(text)]
    return {
        "accuracy": fmean(
            tasks.answer_of(text) == task.answer
            for task, text in zip(questions, texts, strict=True)
        ),
        "wrong_steps": sum(map(sum, wrong)) / steps,
        "easy_lines": sum(map(padded_tasks.is_easy, lines)) / max(len(lines), 1),
        "tokens": fmean(len(tokenizer.encode(text)) for text in texts),
    }


def main(
    seed: Annotated[int, typer.Option(help="Random seed of the demonstrations.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Build it again if it exists.")] = False,
) -> None:
    """Build the bed of padded solutions in the testbed's folder."""
    testbed = testbed_folder()
    if force or not is_made(testbed):
        try:
            typer.echo(json.dumps(build(testbed, seed, typer.echo), indent=2))
        except FileNotFoundError as error:
            typer.echo(error, err=True)
            raise typer.Exit(2) from None
    typer.echo(f"the bed is in {testbed / FOLDER}")


if __name__ == "__main__":
    typer.run(main)
