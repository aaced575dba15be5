"""Prompts that hold all rollouts of a question, and a testbed's judge that is trained on them.

A group's prompt is the single prompts' own ids: the question once, then the steps of each rollout,
each counted from 0, with a separator between rollouts. Its answer is one verdict for each rollout,
in their order. Both forms are trained from the same weights, on the same rollouts, for the same
number of tokens.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_testbed import models, tasks
from capo_testbed.common import Report, Solution, every, make_tasks, stream
from capo_testbed.judge import TEMPLATE, critiques, sampled_rollouts
from capo_testbed.models import TrainingExample
from capo_testbed.tasks import Task

SIZE = 4  # rollouts of a group
START = "judge"  # the judge whose weights both forms start from
SEPARATOR = "?"
_FIRST_TAG, _LAST_TAG = "<step_", "</step_"

Group = list[Solution]


@dataclass(frozen=True, slots=True)
class Training:
    """`tokens`: of all examples that are learnt, in each form; `more`: of further ones of groups,
    which take longer to learn; `batch`: rollouts of an update."""

    tokens: int = 250_000
    more: int = 750_000
    questions: int = 700
    batch: int = 32
    learning_rate: float = 1e-3
    stress: float = 2.0


def sampled_groups(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Task]
) -> list[Group]:
    """SIZE of the policy's rollouts of each question, where all of them can be judged."""
    found: dict[str, Group] = {}
    again = [task for task in questions for _ in range(SIZE)]
    for each in sampled_rollouts(policy, tokenizer, again):
        found.setdefault(each.task.question, []).append(each)
    return [group for group in found.values() if len(group) == SIZE]


def material(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int, seed: int
) -> list[Group]:
    """Groups of demonstrations, most with mistakes; a rollout of the policy in every second one."""
    rng = stream(f"{seed} groups")
    groups = []
    for task in make_tasks(rng, count):
        slips = [tasks.ALL_KINDS if rng.random() < 0.85 else tasks.NO_SLIPS for _ in range(SIZE)]
        groups.append([Solution(task, tasks.demonstrate(task, rng, each)) for each in slips])
    half = {group[0].task.question: group for group in groups[::2]}
    asked = [group[0].task for group in half.values()]
    for own in sampled_rollouts(policy, tokenizer, asked):
        half[own.task.question][rng.randrange(SIZE)] = own
    return groups


def singles(
    groups: Sequence[Group], model: Path, tokenizer: PreTrainedTokenizerFast
) -> list[TrainingExample]:
    """The service's prompt, without a reference, and the right verdict of each rollout."""
    examples = critiques(list(itertools.chain.from_iterable(groups)), model, tokenizer)
    tags = _Tags.of(tokenizer)
    found = []
    for first in range(0, len(examples), SIZE):
        # Every second prompt has a reference, but never the first of a group.
        head = tags.head(examples[first])
        found += [_joined(head, [each], tags, []) for each in examples[first : first + SIZE]]
    return found


def grouped(
    examples: Sequence[TrainingExample], tokenizer: PreTrainedTokenizerFast
) -> list[TrainingExample]:
    """One example of each SIZE single ones."""
    tags = _Tags.of(tokenizer)
    separator = tokenizer.encode(SEPARATOR, add_special_tokens=False)
    groups = (examples[first : first + SIZE] for first in range(0, len(examples), SIZE))
    return [_joined(tags.head(group[0]), group, tags, separator) for group in groups]


@dataclass(frozen=True, slots=True)
class _Tags:
    opening: frozenset[int]
    closing: frozenset[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> _Tags:
        texts = {i: tokenizer.decode([i]) for i in tokenizer.get_vocab().values()}
        return cls(
            frozenset(i for i, text in texts.items() if text.startswith(_FIRST_TAG)),
            frozenset(i for i, text in texts.items() if text.startswith(_LAST_TAG)),
        )

    def steps(self, example: TrainingExample) -> tuple[int, int]:
        """Where the steps begin and end in a single prompt."""
        prompt = example.ids[: example.start]
        first = next(at for at, token in enumerate(prompt) if token in self.opening)
        last = max(at for at, token in enumerate(prompt) if token in self.closing)
        return first, last + 1

    def head(self, example: TrainingExample) -> list[int]:
        """A prompt's tokens before its first step."""
        return list(example.ids[: self.steps(example)[0]])


def _joined(
    head: list[int], examples: Sequence[TrainingExample], tags: _Tags, separator: list[int]
) -> TrainingExample:
    ids = list(head)
    marks: list[tuple[int, bool]] = []
    taught: list[tuple[int, int]] = []
    links: list[tuple[int, int]] = []
    for number, each in enumerate(examples):
        begin, end = tags.steps(each)
        ids += separator if number else []
        move = len(ids) - begin
        ids += each.ids[begin:end]
        marks += [(at + move, wrong) for at, wrong in each.marks]
        taught += [(at + move, token) for at, token in each.taught]
        links += [(at + move, number) for at, number in each.links]
    _, end = tags.steps(examples[0])
    ids += examples[0].ids[end : examples[0].start]
    start = len(ids)
    for each in examples:
        ids += each.ids[each.start : -1]
    ids.append(examples[0].ids[-1])  # the end token
    return TrainingExample(ids, start, marks, taught, links)


def train(folder: Path, out: Path, seed: int, report: Report, how: Training = Training()) -> None:
    """Train `single`, `group` and `group-longer` in `out`, from a testbed in `folder`.

    The last one starts from `group`; the others start from START.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    policy = LlamaForCausalLM.from_pretrained(folder / "policy")
    torch.manual_seed(seed)
    alone = singles(material(policy, tokenizer, how.questions, seed), folder / "policy", tokenizer)
    groups, few = grouped(alone, tokenizer), how.batch // SIZE
    _train(folder / START, out / "single", alone, how.tokens, how.batch, seed, report, how)
    _train(folder / START, out / "group", groups, how.tokens, few, seed, report, how)
    _train(out / "group", out / "group-longer", groups, how.more, few, seed + 1, report, how)


def _train(
    start: Path,
    out: Path,
    examples: Sequence[TrainingExample],
    tokens: int,
    batch: int,
    seed: int,
    report: Report,
    how: Training,
) -> None:
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(start, padding_side="left")
    model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    mean = sum(len(each.ids) for each in examples) / len(examples)
    updates = max(round(tokens / mean / batch), 1)
    report(f"{out.name}: {updates} updates of {batch}, {mean:.0f} tokens an example")
    models.train(
        model,
        lambda: _endless(examples),
        updates=updates,
        batch=batch,
        learning_rate=how.learning_rate,
        stress=how.stress,
        probed=model.config.num_hidden_layers - 2,
        pad=tokenizer.pad_token_id,
        after=every(25, out.name, report),
    )
    models.save(model, tokenizer, out)
    shutil.copy(TEMPLATE, out)


def _endless(examples: Sequence[TrainingExample]) -> Iterator[TrainingExample]:
    return itertools.cycle(examples)
