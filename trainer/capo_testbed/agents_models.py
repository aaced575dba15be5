"""Trajectories of the small environment for agents as tokens, and the policy that samples them.

The policy is trained from scratch, on demonstrations with mistakes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_testbed import agents, models
from capo_testbed.agents import Task, TurnLike
from capo_testbed.agents_demonstrations import ALL_KINDS, DEMONSTRATIONS, Slips, demonstrate
from capo_testbed.common import Report, Round, every, policy_prompt, stream, verdict_of
from capo_testbed.models import TrainingExample
from capo_trainer.sampling import LocalSampler, TrajectorySampler, sample_all
from capo_trainer.sections import Sampling
from capo_trainer.types import Prompt, SampledRollout, SampleRequest
from capo_wire.token_offsets import decode_with_offsets

MOST_TURN_TOKENS = 24
_STEPS = 32  # step tags that are one token each
_INSTRUCTIONS = "Name the wrong steps."  # of judge.j2


@dataclass(frozen=True, slots=True)
class AgentSizes:
    """Sizes of models and of training; batch sizes are in examples."""

    layers: int = 4
    judge_layers: int = 6
    hidden: int = 96
    vocabulary: int = 420
    policy_updates: int = 350
    # In order; each goes on from the judge that the one before it left.
    judge_rounds: tuple[Round, ...] = (Round(500, 4e-3, 4.0, 6000), Round(800, 2e-3, 2.0, 6000))
    batch: int = 32
    held_out: int = 300

    def of_policy(self) -> list[int]:
        """The sizes that the policy depends on."""
        shared = [self.layers, self.hidden, self.vocabulary, self.batch, self.held_out]
        return [*shared, self.policy_updates]


QUICK = AgentSizes(
    layers=2,
    judge_layers=3,
    hidden=64,
    policy_updates=40,
    batch=16,
    held_out=8,
    judge_rounds=(Round(20, 4e-3, 4.0, 60),),
)


@dataclass(frozen=True)
class Trajectory:
    """A trajectory, by a policy or by a demonstration; `ids` and `mask` as the trainer has them."""

    task: Task
    turns: Sequence[TurnLike]
    ids: list[int]
    mask: list[int]

    @cached_property
    def _wrong(self) -> list[bool]:
        return agents.check(self.task.question, self.turns)

    def wrong(self) -> list[bool]:
        """Which turns are wrong."""
        return self._wrong

    @property
    def outcome(self) -> float:
        """r_v."""
        own = "\n\n".join(turn.text for turn in self.turns)
        return agents.outcome(own, self.task.answer) or 0.0

    def body(self, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """The rollout as a request has it: exact tokens by their positions, and their mask."""
        text, offsets = decode_with_offsets(tokenizer, self.ids)
        return {
            "question": self.task.question,
            "response": text,
            "token_offsets": offsets,
            "response_mask": self.mask,
            "outcome": self.outcome,
        }


def make_tasks(rng: random.Random, count: int) -> list[Task]:
    return [agents.make_task(rng) for _ in range(count)]


def held_out_tasks(count: int) -> list[Task]:
    """Tasks that models are tested on, the same for every seed."""
    return [agents.make_task(stream(f"held out agents {i}")) for i in range(count)]


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return LlamaForCausalLM.from_pretrained(folder), tokenizer


def train_policy(
    folder: Path, held_out: Sequence[Task], sizes: AgentSizes, seed: int, report: Report
) -> dict[str, Any]:
    torch.manual_seed(seed)
    rng, seen = stream(f"{seed} agents policy"), {task.question for task in held_out}
    tokenizer = make_tokenizer(rng, sizes.vocabulary)

    def demonstrations() -> Iterator[TrainingExample]:
        while True:
            task = agents.make_task(rng)
            if task.question not in seen:
                yield _demonstration(tokenizer, made(tokenizer, task, rng, DEMONSTRATIONS))

    model = models.new_model(tokenizer, sizes.layers, sizes.hidden)
    report(f"policy: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    models.train(
        model,
        demonstrations,
        updates=sizes.policy_updates,
        batch=sizes.batch,
        learning_rate=5e-3,
        pad=tokenizer.pad_token_id,
        after=every(50, "policy", report),
    )
    models.save(model, tokenizer, folder / "policy")
    return {
        name: figures(sampled(model, tokenizer, held_out, greedy=name == "greedy"))
        for name in ("greedy", "sampled")
    }


def make_tokenizer(rng: random.Random, vocabulary: int) -> PreTrainedTokenizerFast:
    """Digits and tags are tokens of their own."""
    texts = []
    for task in make_tasks(rng, 1000):
        for turn in demonstrate(task, rng, ALL_KINDS):
            texts += [turn.text, agents.reply(turn.observation)]
        texts += [task.question, verdict_of(_bare(task, rng))]
    tags = [f"<{slash}step_{n} " for n in range(_STEPS) for slash in ("", "/")]
    fixed = [_INSTRUCTIONS, "<seen ", "</seen ", *tags]
    return models.wrap(models.train_tokenizer(texts, fixed, vocabulary))


def _bare(task: Task, rng: random.Random) -> Trajectory:
    return Trajectory(task, demonstrate(task, rng, ALL_KINDS), [], [])


def made(
    tokenizer: PreTrainedTokenizerFast, task: Task, rng: random.Random, slips: Slips
) -> Trajectory:
    """A demonstration, with the tokens that a policy would have sampled and read."""
    turns = demonstrate(task, rng, slips)
    ids: list[int] = []
    mask: list[int] = []
    for turn in turns:
        own = [*tokenizer.encode(turn.text, add_special_tokens=False), tokenizer.eos_token_id]
        read: list[int] = []
        if turn.observation:
            read = tokenizer.encode(agents.reply(turn.observation), add_special_tokens=False)
        ids += [*own, *read]
        mask += [1] * len(own) + [0] * len(read)
    return Trajectory(task, turns, ids, mask)


def _demonstration(tokenizer: PreTrainedTokenizerFast, each: Trajectory) -> TrainingExample:
    """The policy learns its own tokens, and not what it reads."""
    prompt = policy_prompt(tokenizer, each.task.question)
    ids = [*prompt, *each.ids]
    own = [(len(prompt) + at, each.ids[at]) for at, one in enumerate(each.mask) if one]
    return TrainingExample(ids, len(ids), taught=own)


def sampled(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[Task],
    *,
    greedy: bool = False,
    seed: int = 0,
) -> list[Trajectory]:
    """One trajectory of the policy for each task."""
    settings = Sampling(temperature=1.0, top_p=1.0, max_tokens=MOST_TURN_TOKENS, batch=128)
    sampler = TrajectorySampler(
        LocalSampler(tokenizer, settings, seed),
        tokenizer,
        agents.environment,
        agents.MOST_TURNS,
        seed,
    )
    requests = [
        SampleRequest(
            Prompt(i, task.question, task.answer),
            policy_prompt(tokenizer, task.question),
            f"testbed {i}",
        )
        for i, task in enumerate(tasks)
    ]
    model.eval()
    rollouts = sample_all(sampler, model, requests, greedy=greedy)
    return [of_rollout(task, each) for task, each in zip(tasks, rollouts, strict=True)]


def of_rollout(task: Task, rollout: SampledRollout) -> Trajectory:
    """A sampled trajectory."""
    return Trajectory(task, rollout.turns or [], rollout.ids, rollout.mask or [])


def figures(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Rates of right answers, of wrong turns, and of right answers with a wrong turn."""
    count = len(trajectories)
    turns = sum(len(each.turns) for each in trajectories)
    return {
        "accuracy": sum(each.outcome for each in trajectories) / count,
        "wrong_turns": sum(sum(each.wrong()) for each in trajectories) / max(turns, 1),
        "lucky": sum(each.outcome == 1 and any(each.wrong()) for each in trajectories) / count,
        "turns": turns / count,
    }
