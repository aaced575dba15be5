"""Builds the testbed: a tokenizer, a policy with about 50% accuracy, and its judges.

Everything is trained from scratch on this machine. The policy learns from demonstrations with
mistakes. The judge starts from the policy and learns from critiques of the policy's rollouts, in
exactly the prompts that the service sends.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from capo_testbed import models, tasks
from capo_testbed.common import (
    Report,
    Sizes,
    Solution,
    every,
    held_out_tasks,
    make_tasks,
    policy_prompt,
    repeatable,
    sample,
    stream,
)
from capo_testbed.judge import judge_prompts, train_judges
from capo_testbed.models import TrainingExample
from capo_testbed.tasks import Task

_QUALITY = "quality.json"


@repeatable()
def build(folder: Path, sizes: Sizes, seed: int, report: Report) -> dict[str, Any]:
    """Build everything in `folder`: policy, judge, judge-f80, judge-f60, prompts, testbed.json.

    An existing policy of the same sizes and seed is kept.

    Returns:
        The content of testbed.json: sizes, and the quality of each model on held-out tasks.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    held_out = held_out_tasks(sizes.held_out)
    write_prompts(folder / "eval.jsonl", held_out)
    seen = {task.question for task in held_out}
    rng = stream(f"{seed} prompts")
    write_prompts(
        folder / "train.jsonl", [t for t in make_tasks(rng, 4000) if t.question not in seen]
    )

    quality_file = folder / "policy" / _QUALITY
    mark = {"seed": seed, "sizes": sizes.of_policy()}
    if not quality_file.exists() or json.loads(quality_file.read_text())["made"] != mark:
        model, tokenizer = _policy(held_out, sizes, seed, report)
        quality = {
            "greedy": _quality(model, tokenizer, held_out),
            "sampled": _quality(model, tokenizer, held_out, temperature=1.0),
        }
        models.save(model, tokenizer, folder / "policy")
        seconds = round(time.monotonic() - started)
        quality_file.write_text(json.dumps({"made": mark, "seconds": seconds, **quality}))
    policy = json.loads(quality_file.read_text())
    report(f"policy: {policy}")
    f1 = train_judges(folder, held_out, sizes, seed, report)
    summary = {
        "sizes": _plain(sizes),
        "seed": seed,
        "policy": policy,
        "judges": f1,
        "seconds": round(time.monotonic() - started),
    }
    (folder / "testbed.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _policy(
    held_out: Sequence[Task], sizes: Sizes, seed: int, report: Report
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The policy, trained on demonstrations with mistakes, of tasks that are not held out."""
    torch.manual_seed(seed)
    rng = stream(f"{seed} policy")
    tokenizer = models.wrap(_tokenizer(rng, sizes))

    model = models.new_model(tokenizer, sizes.layers, sizes.hidden)
    report(f"policy: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    models.train(
        model,
        lambda: demonstrations(tokenizer, rng, held_out, tasks.demonstrate),
        updates=sizes.policy_updates,
        batch=sizes.batch,
        learning_rate=5e-3,
        pad=tokenizer.pad_token_id,
        after=every(100, "policy", report),
    )
    return model, tokenizer


def write_prompts(path: Path, questions: Sequence[Task]) -> None:
    """A prompt file: JSON lines with `question` and `answer`."""
    with path.open("w", encoding="utf-8") as file:
        for task in questions:
            line = {"question": task.question, "answer": f"\\boxed{{{task.answer}}}"}
            file.write(json.dumps(line) + "\n")


def _plain(sizes: Sizes) -> Any:
    """The value after a round trip through JSON."""
    return json.loads(json.dumps(asdict(sizes)))


def is_made(folder: Path, sizes: Sizes, seed: int) -> bool:
    """Whether the testbed exists, with these sizes or the full ones."""
    try:
        made = json.loads((folder / "testbed.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return bool(made["seed"] == seed and made["sizes"] in (_plain(sizes), _plain(Sizes())))


def _tokenizer(rng: random.Random, sizes: Sizes) -> Any:
    rollouts = [
        Solution(t, tasks.demonstrate(t, rng, tasks.ALL_KINDS)) for t in make_tasks(rng, 1000)
    ]
    prompts = judge_prompts(rollouts, None)
    texts = []
    for rollout, prompt in zip(rollouts, prompts, strict=True):
        frame = prompt["messages"][1]["content"].replace(rollout.task.question, "\n")
        for step in tasks.split(rollout.response):
            frame = frame.replace(step, "\n")
        texts += [frame, rollout.task.question, rollout.response, rollout.verdict()]
    instructions = prompts[0]["messages"][0]["content"]
    lines = sorted({line for line in instructions.split("\n") if line})
    return models.train_tokenizer(texts, lines, sizes.vocabulary)


def demonstrations(
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    held_out: Sequence[Task],
    demonstrate: Callable[[Task, random.Random, tasks.Slips], str],
) -> Iterator[TrainingExample]:
    """Solutions with the mistakes of a policy's demonstrations, of tasks that are not held out."""
    seen = {task.question for task in held_out}
    while True:
        task = tasks.make_task(rng)
        if task.question not in seen:
            text = demonstrate(task, rng, tasks.DEMONSTRATIONS)
            yield training_example(tokenizer, task, text)


def training_example(tokenizer: PreTrainedTokenizerFast, task: Task, text: str) -> TrainingExample:
    """A prompt and the solution to learn."""
    prompt = policy_prompt(tokenizer, task.question)
    body = tokenizer.encode(text, add_special_tokens=False)
    return TrainingExample([*prompt, *body, tokenizer.eos_token_id], len(prompt))


def _quality(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Task],
    temperature: float = 0.0,
) -> dict[str, float]:
    prompts = [policy_prompt(tokenizer, task.question) for task in questions]
    texts = sample(model, tokenizer, prompts, temperature=temperature, max_new_tokens=96)
    rollouts = [Solution(task, text) for task, text in zip(questions, texts, strict=True)]
    right = [tasks.answer_of(r.response) == r.task.answer for r in rollouts]
    wrong = [r.wrong() for r in rollouts]
    steps = sum(map(len, wrong))
    return {
        "accuracy": sum(right) / len(right),
        "wrong_steps": sum(map(sum, wrong)) / max(steps, 1),
        "lucky": sum(ok and any(w) for ok, w in zip(right, wrong, strict=True)) / len(right),
    }
