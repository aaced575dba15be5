"""Trains the testbed's judge that thinks: it computes each line itself, then lists the wrong steps.

It has the size of the other judges, and learns from the same kind of rollouts. Its tokenizer has
two more tokens, the markers of a thought. Thoughts are cut at random lengths in training, as a
thinking budget cuts them, so that each beginning of a thought leads to the best verdict that it
allows:

    <think>
    <step_0 37 + 25 = 62, 52 wrong
    <step_1 52 - 8 = 44, 44
    </think>

    {"incorrect_steps": [0]}
"""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_testbed import models, tasks
from capo_testbed.common import (
    Report,
    Sizes,
    Solution,
    every,
    held_out_tasks,
    repeatable,
    sample_ids,
    stream,
)
from capo_testbed.judge import TEMPLATE, critiques, f1_of, make_material, sampled_rollouts
from capo_testbed.models import TrainingExample

NAME = "judge-thinking"
QUALITY = "quality.json"
# The service's default markers. At budget 0 the judge gets none, as its template opens no thought.
OPENING, CLOSING = "<think>\n", "</think>\n\n"
MARKERS = (OPENING.strip(), CLOSING.strip())
WRONG = " wrong"  # ends the line of a wrong step
BUDGETS = (0, 16, 64, 256)
_LONGEST_VERDICT = 24
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the judge is trained, and on how many rollouts. `start`: the judge whose weights it
    starts from. `stress`: weight of the thought, relative to the verdict."""

    start: str = "judge-f80"
    updates: int = 1100
    learning_rate: float = 3e-3
    stress: float = 4.0
    rollouts: int = 24_000


DEFAULT = Recipe()


def thought(rollout: Solution) -> str:
    """The right thought about a rollout: what each step should be, the number to which the step
    comes, and whether it is wrong.

    Without that number a tiny model goes on from its own result, as a solver would.
    """
    steps = tasks.split(rollout.response)
    right = tasks.right_steps(rollout.task.question, steps)
    lines = []
    for index, (step, wanted) in enumerate(zip(map(str.strip, steps), right, strict=True)):
        # The last alternative is the next change, or the answer.
        due = step if step in wanted else wanted[-1] if wanted else ""
        said = (_NUMBER.findall(step) or [""])[-1]
        lines.append(f"<step_{index} {due}, {said}{'' if step in wanted else WRONG}\n")
    return "".join(lines)


def turn(
    tokenizer: PreTrainedTokenizerFast, thinking: Sequence[int] | None, is_whole: bool = True
) -> tuple[list[int], list[int], list[int]]:
    """The judge's turn before its verdict, as the service sends and constrains it.

    Args:
        tokenizer: of this judge.
        thinking: ids of the thought; None: the judge may not think, and gets no markers.
        is_whole: whether the judge ended the thought itself, before its budget.

    Returns:
        Ids that the judge is given, that it writes, and that the constraint forces.
    """
    if thinking is None:
        return [], [], []
    opening = tokenizer.encode(OPENING, add_special_tokens=False)
    end, *rest = tokenizer.encode(CLOSING, add_special_tokens=False)
    return (
        opening,
        [*thinking, end] if is_whole else [*thinking],
        rest if is_whole else [end, *rest],
    )


def lesson(
    tokenizer: PreTrainedTokenizerFast, critique: TrainingExample, thinking: list[int], cut: int
) -> TrainingExample:
    """A critique with the first `cut` ids of a thought before its verdict; 0: with no thought."""
    prompt, verdict = list(critique.ids[: critique.start]), critique.ids[critique.start :]
    is_whole = cut >= len(thinking)
    given, written, forced = turn(tokenizer, thinking[:cut] if cut else None, is_whole)
    first = len(prompt) + len(given)
    taught = [*critique.taught, *((first + i, token) for i, token in enumerate(written))]
    ids = [*prompt, *given, *written, *forced]
    return TrainingExample([*ids, *verdict], len(ids), taught=taught)


@dataclass(frozen=True, slots=True)
class Found:
    """Greedy critiques at one budget: step F1, and mean tokens of a critique.

    `lines`: share of the lines of the right thought that were written; `wrong_lines`: the same for
    the lines of wrong steps.
    """

    f1: float
    tokens: float
    lines: float
    wrong_lines: float


@repeatable()
def build(
    folder: Path, sizes: Sizes, seed: int, report: Report, recipe: Recipe = DEFAULT
) -> dict[str, Any]:
    """Train `judge-thinking` in the folder of a testbed that is built.

    Returns:
        The content of its quality.json: the recipe, and its quality at each thinking budget.
    """
    started = time.monotonic()
    torch.manual_seed(seed)
    policy = LlamaForCausalLM.from_pretrained(folder / "policy")
    plain = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    tested = sampled_rollouts(policy, plain, held_out_tasks(sizes.held_out))
    questions = critiques(tested, folder / "policy", plain)
    # The stream of the other judges, and so the same questions.
    material = make_material(policy, plain, stream(f"{seed} judge"), recipe.rollouts)
    learnt = critiques(material, folder / "policy", plain)
    model, tokenizer = with_markers(folder / recipe.start)
    thoughts = [tokenizer.encode(thought(each), add_special_tokens=False) for each in material]
    rng = stream(f"{seed} thoughts")

    def lessons() -> Iterator[TrainingExample]:
        while True:
            for critique, thinking in zip(learnt, thoughts, strict=True):
                yield lesson(tokenizer, critique, thinking, _cut(rng, len(thinking)))

    models.train(
        model,
        lessons,
        updates=recipe.updates,
        batch=sizes.batch,
        learning_rate=recipe.learning_rate,
        stress=recipe.stress,
        pad=tokenizer.pad_token_id,
        after=every(100, "judge that thinks", report),
    )
    found = {budget: measure(model, tokenizer, questions, tested, budget) for budget in BUDGETS}
    models.save(model, tokenizer, folder / NAME)
    shutil.copy(TEMPLATE, folder / NAME)
    quality = {
        "seed": seed,
        "recipe": asdict(recipe),
        "budgets": {budget: asdict(each) for budget, each in found.items()},
        "seconds": round(time.monotonic() - started),
    }
    (folder / NAME / QUALITY).write_text(json.dumps(quality, indent=2) + "\n")
    return quality


def is_made(folder: Path, seed: int) -> bool:
    """Whether the judge that thinks is in a testbed's folder."""
    try:
        made = json.loads((folder / NAME / QUALITY).read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return bool(made["seed"] == seed)


def with_markers(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A judge with the two markers as further tokens; the rows of the others stay as they are."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in MARKERS])
    model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def _cut(rng: random.Random, length: int) -> int:
    """How much of a thought is left: nothing, a beginning, or (half the time) all of it."""
    roll = rng.random()
    return 0 if roll < 0.25 else rng.randint(1, length) if roll < 0.5 else length


def measure(
    judge: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[TrainingExample],
    rollouts: Sequence[Solution],
    budget: int,
) -> Found:
    """Single greedy critiques; thoughts have at most `budget` tokens, verdicts are free."""
    judge.eval()
    prompts = [list(example.ids[: example.start]) for example in questions]
    thoughts: list[list[int]] = [[] for _ in prompts]
    if budget:
        given, (end,), forced = turn(tokenizer, [])
        opened = [[*prompt, *given] for prompt in prompts]
        thoughts = sample_ids(
            judge, tokenizer, opened, temperature=0.0, max_new_tokens=budget, end=end
        )
        ends = (end, tokenizer.eos_token_id)
        thoughts = [[token for token in each if token not in ends] for each in thoughts]
        prompts = [
            [*prompt, *each, end, *forced] for prompt, each in zip(opened, thoughts, strict=True)
        ]
    verdicts = sample_ids(
        judge, tokenizer, prompts, temperature=0.0, max_new_tokens=_LONGEST_VERDICT
    )
    texts = tokenizer.batch_decode(verdicts, skip_special_tokens=True)
    lines, wrong_lines = _agreement(tokenizer.batch_decode(thoughts), rollouts)
    sampled = sum(map(len, thoughts)) + sum(map(len, verdicts))
    return Found(f1_of(texts, rollouts), sampled / len(prompts), lines, wrong_lines)


def _agreement(written: Sequence[str], rollouts: Sequence[Solution]) -> tuple[float, float]:
    """Share of the right thoughts' lines that were written, of all and of wrong steps."""
    found: dict[bool, list[bool]] = {True: [], False: []}
    for text, rollout in zip(written, rollouts, strict=True):
        lines = text.splitlines()
        for index, line in enumerate(thought(rollout).splitlines()):
            found[line.endswith(WRONG)].append(index < len(lines) and lines[index] == line)
    every_line = found[True] + found[False]
    return (
        sum(every_line) / max(len(every_line), 1),
        sum(found[True]) / max(len(found[True]), 1),
    )
