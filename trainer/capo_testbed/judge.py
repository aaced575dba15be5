"""Trains the testbed's judges, on critiques of the policy's rollouts.

Prompts are the service's own, made by `capo prompt` with the template `judge.j2`. A tiny model does
not learn from verdicts alone which steps are wrong, so training also teaches it, at every token of
a solution, which token would be right there.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_testbed import models, tasks
from capo_testbed.common import (
    Judgeable,
    Report,
    Round,
    Sizes,
    Solution,
    make_tasks,
    policy_prompt,
    sample,
    stream,
    verdict_of,
)
from capo_testbed.models import TrainingExample
from capo_testbed.tasks import Task

TEMPLATE = Path(__file__).with_name("judge.j2")
_TAG = "</step_"
_LIST = re.compile(r"\[([\d, ]*)\]")
# Weaker judges are the good one, saved when its step F1 reached these values.
GRADES = {"judge-f60": 0.60, "judge-f80": 0.80}
GOOD = 0.95  # step F1 after which no further round is trained


def train_judges(
    folder: Path, held_out: Sequence[Task], sizes: Sizes, seed: int, report: Report
) -> dict[str, float]:
    """Train the judge, and save it at each grade on the way. Returns the step F1 of each.

    The judge is the policy with more layers: lower layers find the wrong steps, and higher ones
    write the list.
    """
    torch.manual_seed(seed)
    rng = stream(f"{seed} judge")
    policy = LlamaForCausalLM.from_pretrained(folder / "policy")
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    model = models.deepened(policy, sizes.judge_layers - sizes.layers)

    tested = sampled_rollouts(policy, tokenizer, held_out)
    questions = critiques(tested, folder / "policy", tokenizer)
    scores: dict[str, float] = {}

    def material(count: int) -> list[Solution]:
        return make_material(policy, tokenizer, rng, count)

    def keep(name: str, score: float) -> None:
        models.save(model, tokenizer, folder / name)
        shutil.copy(TEMPLATE, folder / name)
        scores[name] = score

    def after(update: int, loss: float) -> None:
        if update % (50 if len(scores) < len(GRADES) else 200):
            return
        score = greedy_f1(model, tokenizer, questions, tested)
        report(f"judge: update {update}, loss {loss:.3f}, step F1 {score:.3f}")
        for name, least in GRADES.items():
            if name not in scores and score >= least:
                keep(name, score)

    def train(each: Round) -> float:
        models.train(
            model,
            endless(critiques(material(each.rollouts), folder / "policy", tokenizer)),
            updates=each.updates,
            batch=sizes.batch,
            learning_rate=each.learning_rate,
            probed=sizes.layers,
            stress=each.stress,
            pad=tokenizer.pad_token_id,
            after=after,
        )
        return greedy_f1(model, tokenizer, questions, tested)

    score = 0.0
    for number, each in enumerate(sizes.judge_rounds, 1):
        if score < GOOD:
            report(f"judge: round {number} of at most {len(sizes.judge_rounds)}")
            score = train(each)
    keep("judge", score)
    return scores


def sampled_rollouts(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Task]
) -> list[Solution]:
    """The policy's sampled responses; fewer than questions, for some cannot be judged."""
    prompts = [policy_prompt(tokenizer, task.question) for task in questions]
    texts = sample(policy, tokenizer, prompts, temperature=1.0, max_new_tokens=96)
    pairs = zip(questions, texts, strict=True)
    # A few are gibberish that contains a step tag, which is a single token.
    return [Solution(t, text) for t, text in pairs if text.strip() and _TAG not in text]


def make_material(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rng: random.Random, count: int
) -> list[Solution]:
    """A third from the policy; the rest are demonstrations, most of them with mistakes."""
    solutions = sampled_rollouts(policy, tokenizer, make_tasks(rng, count // 3))
    for task in make_tasks(rng, count - len(solutions)):
        slips = tasks.ALL_KINDS if rng.random() < 0.85 else tasks.NO_SLIPS
        solutions.append(Solution(task, tasks.demonstrate(task, rng, slips)))
    rng.shuffle(solutions)
    return solutions


def endless(examples: Sequence[TrainingExample]) -> Callable[[], Iterator[TrainingExample]]:
    def again() -> Iterator[TrainingExample]:
        while True:
            yield from examples

    return again


def critiques(
    rollouts: Sequence[Solution], model: Path, tokenizer: PreTrainedTokenizerFast
) -> list[TrainingExample]:
    """The service's prompt for each rollout, followed by the right verdict."""
    taught = [_lessons(tokenizer, rollout) for rollout in rollouts]
    return examples_of(tokenizer, rollouts, judge_prompts(rollouts, model), taught)


def examples_of(
    tokenizer: PreTrainedTokenizerFast,
    rollouts: Sequence[Judgeable],
    prompts: Sequence[dict[str, Any]],
    taught: Sequence[Sequence[Lesson]],
) -> list[TrainingExample]:
    """What a judge learns from: prompts, right verdicts, and each step's lesson."""
    vocabulary = tokenizer.get_vocab().values()
    closing = {i for i in vocabulary if tokenizer.decode([i]).startswith(_TAG)}
    examples = []
    for rollout, prompt, steps in zip(rollouts, prompts, taught, strict=True):
        ids = prompt["prompt_token_ids"]
        ends = [at for at, token in enumerate(ids) if token in closing]
        lessons = []
        for end, step in zip(ends, steps, strict=True):
            lessons.append((end - len(step.ids), step, end))
        examples.append(_critique(tokenizer, rollout, ids, lessons))
    return examples


@dataclass(frozen=True, slots=True)
class Lesson:
    """One step's ids. `could`: at each id, whether the step could still become right. `taught`: the
    ids of a right step, up to the first that differs."""

    ids: list[int]
    could: list[bool]
    taught: list[int]


def _lessons(tokenizer: PreTrainedTokenizerFast, rollout: Solution) -> list[Lesson]:
    steps = tasks.split(rollout.response)
    right = tasks.right_steps(rollout.task.question, steps)
    # The last alternative is the next change, or the answer.
    return [
        lesson(tokenizer, step, wanted, wanted[-1] if wanted else "")
        for step, wanted in zip(steps, right, strict=True)
    ]


def lesson(
    tokenizer: PreTrainedTokenizerFast, step: str, wanted: Sequence[str], due: str
) -> Lesson:
    """The lesson of a step.

    Args:
        tokenizer: the judge's.
        step: the step.
        wanted: its right alternatives.
        due: the one that is taught where the step is wrong.
    """
    coded = tokenizer(step, add_special_tokens=False, return_offsets_mapping=True)
    ids, could = coded["input_ids"], []
    for _, end in coded["offset_mapping"]:
        whole = end == len(step)
        could.append(any(step == r if whole else r.startswith(step[:end]) for r in wanted))
    text = step if step in wanted else due
    right = tokenizer.encode(text, add_special_tokens=False)
    same = 0
    while same < min(len(right), len(ids)) and right[same] == ids[same]:
        same += 1
    return Lesson(ids, could, right[: same + 1])


def _critique(
    tokenizer: PreTrainedTokenizerFast,
    rollout: Judgeable,
    prompt: list[int],
    lessons: Sequence[tuple[int, Lesson, int]],
) -> TrainingExample:
    """A prompt and its verdict; lessons as (start of the step, lesson, where its tag closes)."""
    marks, taught, links, before = [], [], [], 0
    judged = zip(lessons, rollout.wrong(), strict=True)
    for index, ((start, step, end), wrong) in enumerate(judged):
        # Listing wrong steps in order needs, at each, the number of the one before it.
        links.append((end, before))
        before = min(index + 1, 15) if wrong else before
        marks += [(start + i, not could) for i, could in enumerate(step.could)]
        marks.append((end, wrong))
        taught += [(start + i, token) for i, token in enumerate(step.taught)]
    verdict = tokenizer.encode(verdict_of(rollout), add_special_tokens=False)
    ids = [*prompt, *verdict, tokenizer.eos_token_id]
    return TrainingExample(ids, len(prompt), marks, taught, links)


def greedy_f1(
    judge: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[TrainingExample],
    rollouts: Sequence[Judgeable],
) -> float:
    """Step F1 of single greedy critiques."""
    judge.eval()
    prompts = [example.ids[: example.start] for example in questions]
    texts = sample(judge, tokenizer, prompts, temperature=0.0, max_new_tokens=24)
    return f1_of(texts, rollouts)


def f1_of(texts: Sequence[str], rollouts: Sequence[Judgeable]) -> float:
    """Step F1 of verdicts; wrong steps are the positive class."""
    hits = predicted = actual = 0
    for text, rollout in zip(texts, rollouts, strict=True):
        listed = _LIST.search(text)
        named = {int(n) for n in re.findall(r"\d+", listed[1])} if listed else set()
        wrong = {i for i, w in enumerate(rollout.wrong()) if w}
        hits += len(named & wrong)
        predicted += len(named)
        actual += len(wrong)
    return 2 * hits / max(predicted + actual, 1)


def judge_prompts(rollouts: Sequence[Solution], model: Path | None) -> list[dict[str, Any]]:
    """The service's prompts for rollouts, every other one with its reference."""
    lines = []
    for i, rollout in enumerate(rollouts):
        lines.append({"question": rollout.task.question, "response": rollout.response})
        if i % 2:
            lines[-1]["reference"] = f"\\boxed{{{rollout.task.answer}}}"
    return service_prompts(lines, model)


def service_prompts(lines: Sequence[dict[str, Any]], model: Path | None) -> list[dict[str, Any]]:
    """The service's prompts for rollouts, as `capo prompt` writes them.

    Args:
        lines: rollouts as requests have them.
        model: folder of the judge's tokenizer; None: the prompts are not encoded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        sent, got = Path(scratch) / "rollouts.jsonl", Path(scratch) / "prompts.jsonl"
        with sent.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps(line) + "\n")
        command = [sys.executable, "-m", "capo_client", "prompt", str(sent), "--out", str(got)]
        command += ["--critique-style", "verdict", "--set", "nonce_secret=testbed"]
        # The judge learns to write whole verdicts.
        command += ["--set", "prefill=false"]
        command += ["--template", str(TEMPLATE)]
        if model is not None:
            command += ["--model", str(model)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # our own
        with got.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
