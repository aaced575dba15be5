"""The training loop: sample, credit, learn. Reads from top to bottom."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed

from capo_trainer import checkpoint
from capo_trainer.batch import Batch, make_batch
from capo_trainer.data import Prompt, prompts_of_step, read_prompts
from capo_trainer.evaluate import Evaluator
from capo_trainer.logs import Logs
from capo_trainer.policy import cosine, load_policy
from capo_trainer.ppo_update import TrainingStopped, learn
from capo_trainer.recipe import Recipe, RecipeError
from capo_trainer.reward_client import Bundles, Collected, CreditLink
from capo_trainer.sampling import Asked, Rollout, Sampler, encode_prompt, make_sampler
from capo_trainer.verify import Verifier, make_verifier


@dataclass(slots=True)
class Sampled:
    """What one step sampled and was told; `collected` is None where no service was asked."""

    rollouts: list[Rollout]
    outcomes: list[float | None]
    collected: Collected | None
    seconds: float


def train(recipe: Recipe) -> Path:
    """Run a recipe to its end, from its last checkpoint if there is one.

    Returns:
        The folder of the trained policy.

    Raises:
        RecipeError: a file, the policy or the service cannot be used. Nothing was trained.
        TrainingStopped: the loss is not a number, or no rollout could be learnt from.
        SamplingError: the sampling server failed.
    """
    # Everything that can be wrong is found out before anything is trained.
    verifier = make_verifier(recipe.data.verifier)
    prompts = read_prompts(recipe.data.prompts, verifier)
    accelerator = Accelerator(mixed_precision="bf16" if recipe.policy.precision == "bf16" else "no")
    world, main = accelerator.num_processes, accelerator.is_main_process
    if recipe.data.prompts_per_step % world or recipe.minibatch % world:
        raise RecipeError(
            f"{world} processes do not divide data.prompts_per_step = "
            f"{recipe.data.prompts_per_step} and the minibatch of {recipe.minibatch} rollouts"
        )
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # tied weights are fine
    set_seed(recipe.seed)
    model, tokenizer = load_policy(recipe.policy)
    evaluator = Evaluator(recipe, tokenizer, verifier)
    needs_service = recipe.credit.reward != "outcome" or evaluator.needs_service
    kept = recipe.logging.rollouts if main else 0
    link = CreditLink(recipe.credit, recipe.output.name, kept) if needs_service else None

    reference = None
    if recipe.algorithm.kl:
        reference = copy.deepcopy(model).requires_grad_(False).eval().to(accelerator.device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.optimiser.learning_rate, betas=recipe.optimiser.betas,
        weight_decay=recipe.optimiser.weight_decay,
    )  # fmt: skip
    schedule = cosine(optimiser, recipe.optimiser, recipe.updates)
    model, optimiser = accelerator.prepare(model, optimiser)
    accelerator.register_for_checkpointing(schedule)
    sampler = make_sampler(tokenizer, recipe.sampling, recipe.seed, recipe.output)
    first = checkpoint.load(accelerator, recipe)
    if first:
        sampler.update(lambda folder: checkpoint.export(accelerator, model, tokenizer, folder))
    logs = Logs(recipe, enabled=main, first=first)

    try:
        if first == 0 and evaluator and recipe.evaluation.at_start:
            logs.evaluation(0, evaluator.run(accelerator, model, sampler, link))
        for step in range(first, recipe.steps):
            started = time.monotonic()
            chosen = prompts_of_step(
                prompts, step, recipe.data.prompts_per_step, recipe.seed, recipe.data.shuffle
            )
            share = len(chosen) // world
            start = accelerator.process_index * share
            asked = ask(recipe, tokenizer, chosen[start : start + share], step, start)

            taken = gathered(sample(recipe, accelerator, model, sampler, verifier, link, asked))
            credits = taken.collected.credits if taken.collected else None
            batch = make_batch(
                taken.rollouts, taken.outcomes, credits, recipe, tokenizer.pad_token_id,
                accelerator.device,
            )  # fmt: skip
            learned = learn(recipe, accelerator, model, reference, optimiser, schedule, batch, step)
            sampler.update(lambda folder: checkpoint.export(accelerator, model, tokenizer, folder))

            record = summarise(taken, batch, learned, time.monotonic() - started)
            logs.step(step + 1, record, taken)
            if evaluator.due(step + 1):
                logs.evaluation(step + 1, evaluator.run(accelerator, model, sampler, link))
            if (step + 1) % recipe.checkpoints.every == 0 or step + 1 == recipe.steps:
                checkpoint.save(accelerator, recipe, step + 1)
        target = recipe.output / "policy"
        checkpoint.export(accelerator, model, tokenizer, target)
    finally:
        logs.close()
        if link is not None:
            link.close()
    accelerator.end_training()
    return target


def ask(
    recipe: Recipe, tokenizer: Any, prompts: Sequence[Prompt], step: int, start: int
) -> list[Asked]:
    """n rollouts of each question, side by side, each with a random stream of its own.

    `start` is the place of the first question in the whole step.
    """
    asked = []
    for place, prompt in enumerate(prompts, start):
        ids = encode_prompt(tokenizer, prompt.question, recipe.policy)
        if len(ids) > recipe.data.max_prompt_tokens:
            raise TrainingStopped(
                f"prompt {prompt.index + 1} of {recipe.data.prompts} has {len(ids)} tokens; raise "
                f"data.max_prompt_tokens ({recipe.data.max_prompt_tokens}) or leave it out"
            )
        asked += [
            Asked(prompt, ids, f"step {step} question {place} rollout {number}")
            for number in range(recipe.sampling.rollouts_per_prompt)
        ]
    return asked


def sample(
    recipe: Recipe, accelerator: Accelerator, model: Any, sampler: Sampler, verifier: Verifier,
    link: CreditLink | None, asked: Sequence[Asked],
) -> Sampled:  # fmt: skip
    """Sample rollouts and have them credited, those that are finished while others are sampled."""
    if recipe.credit.reward == "outcome":
        link = None
    finished: dict[int, Rollout] = {}
    outcomes: dict[int, float | None] = {}

    def send(positions: list[int]) -> None:
        if link is not None:
            link.send([(i, finished[i], outcomes[i]) for i in positions])

    bundles = Bundles(recipe.credit.bundle, recipe.sampling.rollouts_per_prompt, send)

    def on_finished(position: int, rollout: Rollout) -> None:
        finished[position] = rollout
        outcomes[position] = verifier(rollout.text, rollout.asked.prompt.answer)
        if recipe.credit.overlap:
            bundles.add(position)

    if link is not None:
        link.begin()
    started = time.monotonic()
    with checkpoint.whole_model(accelerator, model) as whole:
        whole.eval()
        rollouts = sampler.sample(whole, asked, on_finished)
        whole.train()
    if not recipe.credit.overlap:
        for position in range(len(rollouts)):
            bundles.add(position)
    seconds = time.monotonic() - started
    collected = link.collect() if link is not None else None
    return Sampled(rollouts, [outcomes[i] for i in range(len(rollouts))], collected, seconds)


def gathered(mine: Sampled) -> Sampled:
    """What all processes sampled, on each of them; seconds are those of the slowest."""
    parts: list[Sampled] = gather_object([mine])
    if len(parts) == 1:
        return mine
    whole = Sampled([], [], None, max(part.seconds for part in parts))
    for part in parts:
        if part.collected is not None:
            whole.collected = whole.collected or Collected()
            whole.collected.add(part.collected, len(whole.rollouts))
        whole.rollouts += part.rollouts
        whole.outcomes += part.outcomes
    return whole


def summarise(
    taken: Sampled, batch: Batch, learned: dict[str, float], seconds: float
) -> dict[str, Any]:
    """The step's record."""
    counts, rollouts = batch.counts, len(taken.rollouts)
    found = taken.collected or Collected()
    tokens = sum(len(rollout.ids) for rollout in taken.rollouts)
    steps = counts["steps"]
    return {
        "rollouts": rollouts,
        "accuracy": counts["right"] / rollouts,
        "wrong_step_rate": counts["wrong_steps"] / steps if steps else None,
        "mean_tokens": tokens / rollouts,
        **learned,
        **{name: counts[name] for name in ("blank", "truncated", "unverified", "uncredited")},
        "failures": dict(found.failures),
        "tokens": tokens,
        "critiques": found.usage.critiques_run,
        "judge_prompt_tokens": found.usage.prompt_tokens,
        "judge_cached_tokens": found.usage.cached_tokens,
        "judge_completion_tokens": found.usage.completion_tokens,
        "sample_seconds": taken.seconds,
        "wait_seconds": found.waited,
        "step_seconds": seconds,
    }
