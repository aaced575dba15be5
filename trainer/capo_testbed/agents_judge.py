"""Trains the judge of the small environment for agents.

It is the policy with more layers, and learns from critiques of trajectories in exactly the prompts
that the service makes of `response`, `token_offsets` and `response_mask`.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from capo_testbed import agents, models
from capo_testbed.agents import Task
from capo_testbed.agents_demonstrations import ALL_KINDS, NO_SLIPS
from capo_testbed.agents_models import AgentSizes, Trajectory, load, made, make_tasks, sampled
from capo_testbed.common import Report, stream
from capo_testbed.judge import (
    TEMPLATE,
    Lesson,
    examples_of,
    greedy_f1,
    lesson,
    service_prompts,
)
from capo_testbed.models import TrainingExample


def train_judge(
    folder: Path,
    held_out: Sequence[Task],
    sizes: AgentSizes,
    number: int,
    seed: int,
    report: Report,
) -> float:
    """One round of training the judge. Returns its turn F1, of greedy critiques."""
    torch.manual_seed(seed)
    how, rng = sizes.judge_rounds[number], stream(f"{seed} agents judge {number or ''}".strip())
    policy, tokenizer = load(folder / "policy")
    tested = judgeable(sampled(policy, tokenizer, held_out))
    questions = critiques(tested, folder / "policy", tokenizer)
    model = (
        load(folder / "judge")[0]
        if number
        else models.deepened(policy, sizes.judge_layers - sizes.layers)
    )
    some = make_tasks(rng, how.rollouts // 3)
    material = judgeable(sampled(policy, tokenizer, some, seed=seed + number))
    for task in make_tasks(rng, how.rollouts - len(material)):
        slips = ALL_KINDS if rng.random() < 0.85 else NO_SLIPS
        material.append(made(tokenizer, task, rng, slips))
    rng.shuffle(material)
    examples = critiques(material, folder / "policy", tokenizer)
    report(f"judge: {len(examples)} critiques")

    def after(update: int, loss: float) -> None:
        if update % 100 == 0:
            score = greedy_f1(model, tokenizer, questions, tested)
            report(f"judge: update {update}, loss {loss:.3f}, turn F1 {score:.3f}")

    models.train(
        model,
        lambda: itertools.cycle(examples),
        updates=how.updates,
        batch=sizes.batch,
        learning_rate=how.learning_rate,
        probed=sizes.layers,
        stress=how.stress,
        pad=tokenizer.pad_token_id,
        after=after,
    )
    models.save(model, tokenizer, folder / "judge")
    shutil.copy(TEMPLATE, folder / "judge")
    return greedy_f1(model, tokenizer, questions, tested)


def judgeable(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Those in which every turn is a line of text; others are gibberish of an untrained policy.

    (By default the service cuts a trajectory of one turn on blank lines.)
    """
    return [
        each
        for each in trajectories
        if all(turn.text.strip() and "\n" not in turn.text for turn in each.turns)
    ]


def critiques(
    trajectories: Sequence[Trajectory], model: Path, tokenizer: PreTrainedTokenizerFast
) -> list[TrainingExample]:
    """The service's prompt for each trajectory, followed by the right verdict.

    Every other prompt has the reference.
    """
    lines = [each.body(tokenizer) for each in trajectories]
    for line, each in list(zip(lines, trajectories, strict=True))[1::2]:
        line["reference"] = each.task.answer
    taught = [_lessons(tokenizer, each) for each in trajectories]
    return examples_of(tokenizer, trajectories, service_prompts(lines, model), taught)


def _lessons(tokenizer: PreTrainedTokenizerFast, each: Trajectory) -> list[Lesson]:
    lessons = []
    right = agents.right_turns(each.task, each.turns)
    for turn, wanted in zip(each.turns, right, strict=True):
        step = turn.text.strip()
        due = max(wanted, key=lambda text: _shared(text, step), default="")
        lessons.append(lesson(tokenizer, step, wanted, due))
    return lessons


def _shared(one: str, other: str) -> int:
    """How many characters two texts share at their beginnings."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
