"""The training loop: sample, credit, learn. Reads from top to bottom."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed

from capo_trainer import checkpoint
from capo_trainer.algorithm import (
    clipped,
    kl_to_reference,
    policy_loss,
    token_weights,
    weight_total,
)
from capo_trainer.batch import Batch, log_probabilities, make_batch
from capo_trainer.credit import Bundles, Collected, CreditLink
from capo_trainer.data import Prompt, prompts_of_step, read_prompts
from capo_trainer.evaluate import Evaluator
from capo_trainer.logs import Logs
from capo_trainer.policy import cosine, load_policy
from capo_trainer.recipe import Recipe, RecipeError
from capo_trainer.rollout import Asked, Rollout, Sampler, encode_prompt, make_sampler
from capo_trainer.verify import Verifier, make_verifier


class TrainingStopped(RuntimeError):
    """Training cannot go on; the last checkpoint is good."""


@dataclass(slots=True)
class Step:
    """What one step sampled and was told."""

    rollouts: list[Rollout]
    outcomes: list[float | None]
    collected: Collected | None
    sample_seconds: float


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
    set_seed(recipe.seed)
    model, tokenizer = load_policy(recipe.policy)
    evaluator = Evaluator(recipe, tokenizer, verifier)
    needs_service = recipe.credit.reward != "outcome" or evaluator.needs_service
    link = CreditLink(recipe.credit) if needs_service else None

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
        for step in range(first, recipe.steps):
            if step == 0 and evaluator:
                logs.evaluation(step, evaluator.run(accelerator, model, sampler, link))
            started = time.monotonic()
            chosen = prompts_of_step(
                prompts, step, recipe.data.prompts_per_step, recipe.seed, recipe.data.shuffle
            )
            share = len(chosen) // world
            mine = chosen[accelerator.process_index * share :][:share]
            asked = ask(recipe, tokenizer, mine, step)

            taken = sample(recipe, accelerator, model, sampler, verifier, link, asked)
            credits = taken.collected.credits if taken.collected else None
            batch = make_batch(
                taken.rollouts, taken.outcomes, credits, recipe, tokenizer.pad_token_id,
                accelerator.device,
            )  # fmt: skip
            learned = learn(recipe, accelerator, model, reference, optimiser, schedule, batch, step)
            sampler.update(lambda folder: checkpoint.export(accelerator, model, tokenizer, folder))

            record = summarise(accelerator, taken, batch, learned, time.monotonic() - started)
            logs.step(step + 1, record, taken.rollouts)
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


def ask(recipe: Recipe, tokenizer: Any, prompts: Sequence[Prompt], step: int) -> list[Asked]:
    """n rollouts of each question, side by side, each with a random stream of its own."""
    asked = []
    for prompt in prompts:
        ids = encode_prompt(tokenizer, prompt.question, recipe.policy)
        if len(ids) > recipe.data.max_prompt_tokens:
            raise TrainingStopped(
                f"prompt {prompt.index + 1} of {recipe.data.prompts} has {len(ids)} tokens; raise "
                f"data.max_prompt_tokens ({recipe.data.max_prompt_tokens}) or leave it out"
            )
        asked += [
            Asked(prompt, ids, f"step {step} prompt {prompt.index} rollout {number}")
            for number in range(recipe.sampling.rollouts_per_prompt)
        ]
    return asked


def sample(
    recipe: Recipe, accelerator: Accelerator, model: Any, sampler: Sampler, verifier: Verifier,
    link: CreditLink | None, asked: Sequence[Asked],
) -> Step:  # fmt: skip
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
    return Step(rollouts, [outcomes[i] for i in range(len(rollouts))], collected, seconds)


def learn(
    recipe: Recipe, accelerator: Accelerator, model: Any, reference: Any, optimiser: Any,
    schedule: Any, batch: Batch, step: int,
) -> dict[str, float]:  # fmt: skip
    """E epochs of PPO over mini-batches; figures of the step.

    Sums are divided by the totals of the whole mini-batch, over all processes, so that neither
    micro-batches nor processes change the loss.
    """
    settings, world = recipe.algorithm, accelerator.num_processes
    started = time.monotonic()
    advantage = batch.advantages(settings.advantage)
    count, size = len(batch.ids), recipe.minibatch // world
    if not accelerator.reduce(batch.mask.sum(), "sum").item():
        raise TrainingStopped(
            f"step {step + 1}: no rollout can be learnt from ({dict(batch.counts)}); see the "
            "warnings above, or set credit.on_failure = 'outcome'"
        )
    micro = [list(range(i, min(i + settings.micro_batch, count)))
             for i in range(0, count, settings.micro_batch)]  # fmt: skip
    temperature = recipe.sampling.temperature
    several = settings.epochs > 1 or size < count
    old, base = torch.zeros_like(advantage), torch.zeros_like(advantage)
    with torch.no_grad():
        for rows in micro:
            if several:
                old[rows] = log_probabilities(model, batch.rows(rows), temperature)
            if reference is not None:
                with accelerator.autocast():
                    base[rows] = log_probabilities(reference, batch.rows(rows), temperature)

    sums: dict[str, torch.Tensor] = {}
    clip = (settings.clip_low, settings.clip_high)
    updates = 0
    for epoch in range(settings.epochs):
        order = list(range(count))
        random.Random(f"{recipe.seed} {step} {epoch}").shuffle(order)  # noqa: S311
        for start in range(0, count, size):
            rows = order[start : start + size]
            total = accelerator.reduce(weight_total(batch.mask[rows], settings.average), "sum")
            parts = [
                rows[i : i + settings.micro_batch] for i in range(0, size, settings.micro_batch)
            ]
            for part in parts:
                last = part is parts[-1]
                with nullcontext() if last else accelerator.no_sync(model):
                    some, wanted = batch.rows(part), advantage[part]
                    logprobs = log_probabilities(model, some, temperature)
                    before = old[part] if several else logprobs.detach()
                    weights = token_weights(some.mask, settings.average, total.item())
                    loss = policy_loss(logprobs, before, wanted, some.mask, clip)
                    divergence = kl_to_reference(logprobs, base[part], some.mask)
                    held = clipped(logprobs.detach(), before, wanted, clip)
                    full = loss + settings.kl * divergence if settings.kl else loss
                    # Processes' gradients are averaged, and a sum over them is wanted.
                    accelerator.backward((weights * full).sum() * world)
                for name, value in (
                    ("loss", full), ("kl", divergence), ("clipped", held), ("entropy", -logprobs),
                ):  # fmt: skip
                    share = torch.where(some.mask, weights * value.detach(), 0.0).sum()
                    sums[name] = sums.get(name, torch.zeros_like(share)) + share
            total_loss = accelerator.reduce(sums["loss"], "sum")
            if not torch.isfinite(total_loss):
                questions = sorted({int(batch.groups[row]) for row in rows})
                raise TrainingStopped(
                    f"step {step + 1}, epoch {epoch + 1}: the loss is {total_loss.item()} on the "
                    f"mini-batch of questions {questions} of the step. Nothing of it was kept: "
                    "resume from the last checkpoint with a lower optimiser.learning_rate"
                )
            norm = accelerator.clip_grad_norm_(model.parameters(), recipe.optimiser.max_grad_norm)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            updates += 1
    figures = {
        name: accelerator.reduce(value, "sum").item() / updates
        for name, value in sums.items()
        if name != "kl" or reference is not None
    }
    figures["grad_norm"] = float(norm)
    figures["learning_rate"] = schedule.get_last_lr()[0]
    figures["learn_seconds"] = time.monotonic() - started
    return figures


def summarise(
    accelerator: Accelerator, taken: Step, batch: Batch, learned: dict[str, float], seconds: float
) -> dict[str, Any]:
    """The step's record, over all processes; seconds are the main process's."""
    found = taken.collected
    part: dict[str, Any] = {
        "rollouts": len(taken.rollouts),
        "tokens": sum(len(r.ids) for r in taken.rollouts),
        "judge_prompt_tokens": found.usage.prompt_tokens if found else 0,
        "judge_cached_tokens": found.usage.cached_tokens if found else 0,
        "judge_completion_tokens": found.usage.completion_tokens if found else 0,
        "critiques": found.usage.critiques_run if found else 0,
        **{name: int(number) for name, number in batch.counts.items()},
    }
    parts = gather_object([(part, dict(found.failures) if found else {})])
    names = {name for counts, _ in parts for name in counts}
    whole: dict[str, Any] = {n: sum(counts.get(n, 0) for counts, _ in parts) for n in sorted(names)}
    failures: dict[str, int] = {}
    for _, reasons in parts:
        for reason, number in reasons.items():
            failures[reason] = failures.get(reason, 0) + number
    steps, rollouts = whole.pop("steps", 0), whole["rollouts"]
    return {
        "accuracy": whole.get("right", 0) / rollouts,
        "wrong_step_rate": whole.get("wrong_steps", 0) / steps if steps else None,
        "mean_tokens": whole["tokens"] / rollouts,
        **learned, **whole, "failures": failures,
        "sample_seconds": taken.sample_seconds,
        "wait_seconds": found.waited if found else 0.0,
        "step_seconds": seconds,
    }  # fmt: skip
