"""Learning from one step's rollouts: PPO epochs over mini-batches, on any number of processes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from capo_trainer.algorithm import (
    clipped,
    kl_to_reference,
    policy_loss,
    token_weights,
    weight_total,
)
from capo_trainer.batch import Batch, log_probabilities
from capo_trainer.recipe import Recipe
from capo_trainer.sampling import groups_of


class TrainingStopped(RuntimeError):
    """Training cannot go on; the last checkpoint is good."""


def learn(
    recipe: Recipe, accelerator: Accelerator, model: Any, reference: Any, optimiser: Any,
    schedule: Any, batch: Batch, step: int,
) -> dict[str, float]:  # fmt: skip
    """E epochs over the mini-batches of a step (from 0); means over its updates, as figures.

    Every process holds the whole batch and takes an equal share of each mini-batch, so neither
    processes nor micro-batches change what is learnt.

    Raises:
        TrainingStopped: no rollout can be learnt from, or the loss is not a number.
    """
    settings, started = recipe.algorithm, time.monotonic()
    world, rank = accelerator.num_processes, accelerator.process_index
    clip, temperature = (settings.clip_low, settings.clip_high), recipe.sampling.temperature
    count, size = len(batch.ids), recipe.minibatch
    if not batch.mask.any():
        raise TrainingStopped(
            f"step {step + 1}: no rollout can be learnt from ({dict(batch.counts)}); see why in "
            "metrics.jsonl and above, or set credit.on_failure = 'outcome'"
        )
    advantage = batch.advantages(settings.advantage)
    several = settings.epochs * count > size  # otherwise the policy learns as it sampled
    old = _frozen(accelerator, model, batch, recipe) if several else None
    base = _frozen(accelerator, reference, batch, recipe) if reference is not None else None

    sums = dict.fromkeys(("loss", "kl", "clipped", "entropy"), 0.0)
    updates, norm = 0, 0.0
    for epoch in range(settings.epochs):
        order = list(range(count))
        random.Random(f"{recipe.seed} {step} {epoch}").shuffle(order)  # noqa: S311  # an order
        for rows in groups_of(order, size):
            total = float(weight_total(batch.mask[rows], settings.average))
            told = torch.zeros(len(sums), device=advantage.device)
            parts = list(groups_of(rows[rank::world], settings.micro_batch))
            for part in parts:
                some, wanted = batch.rows(part), advantage[part]
                with nullcontext() if part is parts[-1] else accelerator.no_sync(model):
                    logprobs = log_probabilities(model, some, temperature)
                    before = logprobs.detach() if old is None else old[part]
                    loss = policy_loss(logprobs, before, wanted, some.mask, clip)
                    divergence = torch.zeros_like(loss)
                    if base is not None:
                        divergence = kl_to_reference(logprobs, base[part], some.mask)
                        loss = loss + settings.kl * divergence
                    weights = token_weights(some.mask, settings.average, total)
                    # Gradients are averaged over processes, and their sum is wanted.
                    accelerator.backward((weights * loss).sum() * world)
                held = clipped(logprobs.detach(), before, wanted, clip)
                values = torch.stack([loss, divergence, held.float(), -logprobs]).detach()
                told += torch.where(some.mask, weights * values, 0.0).sum((1, 2))
            figures = accelerator.reduce(told, "sum")
            norm = float(accelerator.clip_grad_norm_(
                model.parameters(), recipe.optimiser.max_grad_norm
            ))  # fmt: skip
            if not torch.isfinite(figures).all() or not math.isfinite(norm):
                raise TrainingStopped(_not_a_number(figures, batch, rows, step, epoch))
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            sums = {
                name: sums[name] + value for name, value in zip(sums, figures.tolist(), strict=True)
            }
            updates += 1
    if base is None:
        del sums["kl"]
    return {
        **{name: value / updates for name, value in sums.items()},
        "grad_norm": norm,
        "learning_rate": schedule.get_last_lr()[0],
        "learn_seconds": time.monotonic() - started,
    }


def _frozen(accelerator: Accelerator, model: Any, batch: Batch, recipe: Recipe) -> Tensor:
    """Log-probabilities (B, T) of all rollouts under a model as it is, shared by processes."""
    count = len(batch.ids)
    share = count // accelerator.num_processes
    first = accelerator.process_index * share
    parts = groups_of(range(first, first + share), recipe.algorithm.micro_batch)
    with torch.no_grad(), accelerator.autocast():
        mine = [
            log_probabilities(model, batch.rows(part), recipe.sampling.temperature)
            for part in parts
        ]
    whole: Tensor = accelerator.gather(torch.cat(mine))
    return whole


def _not_a_number(figures: Tensor, batch: Batch, rows: Sequence[int], step: int, epoch: int) -> str:
    questions = sorted({int(batch.groups[row]) + 1 for row in rows})
    return (
        f"step {step + 1}, epoch {epoch + 1}: the loss is {figures[0].item()} on the mini-batch of "
        f"questions {questions} of the step (in the order of the step's prompts). It was not "
        "learnt from; go on from the last checkpoint with a lower optimiser.learning_rate, or "
        "look at these rollouts (logging.samples)"
    )
