"""Sizes, data and sampling that the policy and the judges share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from capo_testbed import tasks
from capo_testbed.tasks import Task

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of training the judge, on new rollouts. `stress`: weight of finding wrong steps,
    relative to writing the verdict."""

    updates: int
    learning_rate: float
    stress: float
    rollouts: int = 16_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of models and of training; batch sizes are in examples."""

    layers: int = 6
    judge_layers: int = 8
    hidden: int = 128
    vocabulary: int = 1024
    policy_updates: int = 800
    # In order, until the judge is good enough.
    judge_rounds: tuple[Round, ...] = (
        Round(1400, 4e-3, 4.0),
        Round(800, 2e-3, 2.0),
        Round(300, 1e-3, 2.0, 9600),
    )
    batch: int = 32
    held_out: int = 400

    def of_policy(self) -> list[int]:
        """The sizes that the policy depends on."""
        return [
            self.layers,
            self.hidden,
            self.vocabulary,
            self.policy_updates,
            self.batch,
            self.held_out,
        ]


# Takes six minutes instead of fifteen; for tests.
QUICK = Sizes(policy_updates=700, judge_rounds=(Round(350, 4e-3, 4.0, 6000),))


class Judgeable(Protocol):
    """What a judge learns from: a rollout whose wrong steps are known."""

    def wrong(self) -> list[bool]:
        """Which steps are wrong."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A response to a task, by a policy or by a demonstration with mistakes."""

    task: Task
    response: str

    def wrong(self) -> list[bool]:
        """Which steps are wrong."""
        return tasks.check(self.task.question, tasks.split(self.response))

    def verdict(self) -> str:
        """The correct verdict, in a judge's format."""
        return verdict_of(self)


def verdict_of(rollout: Judgeable) -> str:
    """The correct verdict, in a judge's format."""
    steps = ", ".join(str(i) for i, wrong in enumerate(rollout.wrong()) if wrong)
    return f'{{"incorrect_steps": [{steps}]}}'


def stream(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311  # data, not a secret


def make_tasks(rng: random.Random, count: int) -> list[Task]:
    return [tasks.make_task(rng) for _ in range(count)]


def held_out_tasks(count: int) -> list[Task]:
    """Tasks that models are tested on, the same for every seed."""
    return [tasks.make_task(stream(f"held out {i}")) for i in range(count)]


def policy_prompt(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """Token ids of a prompt, by the policy's chat template."""
    turns = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))


def sample(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    batch: int = 256,
) -> list[str]:
    """One text for each prompt; greedy at temperature 0."""
    written = sample_ids(
        model,
        tokenizer,
        prompts,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch=batch,
    )
    return list(tokenizer.batch_decode(written, skip_special_tokens=True))


def sample_ids(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    batch: int = 256,
    end: int | None = None,
) -> list[list[int]]:
    """The ids that are sampled for each prompt, up to and including `end` or the end token."""
    written: dict[int, list[int]] = {}
    ends = [tokenizer.eos_token_id] if end is None else [tokenizer.eos_token_id, end]
    how: dict[str, Any] = {"do_sample": temperature > 0, "eos_token_id": ends}
    if temperature > 0:
        how |= {"temperature": temperature, "top_k": 0}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        inputs = tokenizer.pad({"input_ids": [prompts[i] for i in group]}, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=max_new_tokens, **how)
        for i, row in zip(group, out[:, inputs.input_ids.shape[1] :].tolist(), strict=True):
            written[i] = [token for token in row if token != tokenizer.pad_token_id]
    return [written[i] for i in range(len(prompts))]


def every(count: int, name: str, report: Report) -> Callable[[int, float], None]:
    def after(update: int, loss: float) -> None:
        if update % count == 0:
            report(f"{name}: update {update}, loss {loss:.3f}")

    return after


@contextmanager
def repeatable() -> Iterator[None]:
    """Deterministic algorithms, so that a build gives the same weights each time on one kind of
    machine; by default PyTorch adds gradients by row in the order of its threads."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
