"""Learning from one step's rollouts: PPO epochs over mini-batches, on any number of processes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from capo_trainer.algorithm import (
    clipped,
    kl_to_reference,
    policy_loss,
    token_weights,
    weight_total,
)
from capo_trainer.batch import TrainingBatch, log_probabilities
from capo_trainer.errors import TrainingStopped
from capo_trainer.recipe import Recipe

_FIGURES = ("loss", "kl", "clipped", "entropy")


@dataclass(frozen=True, slots=True)
class _Targets:
    """A step's batch, with (B, T) tensors that stay fixed while it is learnt from.

    `old` and `base` are log-probabilities under the policy that sampled and under the reference;
    None where the policy learns from each rollout as it sampled it, and without a KL term.
    """

    batch: TrainingBatch
    advantage: Tensor
    old: Tensor | None
    base: Tensor | None


@dataclass(frozen=True, slots=True)
class Learner:
    """The policy that learns, with its optimiser; `reference` is None without a KL term.

    Every process holds a step's whole batch and takes an equal share of each mini-batch, so that
    neither processes nor micro-batches change what is learnt.
    """

    recipe: Recipe
    accelerator: Accelerator
    model: nn.Module
    reference: nn.Module | None
    optimiser: torch.optim.Optimizer
    schedule: LRScheduler

    def learn(self, batch: TrainingBatch, step: int) -> dict[str, float]:
        """E epochs over the mini-batches of a step (from 0). Returns means over its updates.

        Raises:
            TrainingStopped: no rollout can be learnt from, or the loss is not a number.
        """
        settings, started = self.recipe.algorithm, time.monotonic()
        if not batch.mask.any():
            raise TrainingStopped(
                f"step {step + 1}: no rollout can be learnt from ({dict(batch.counts)}); see why "
                "in metrics.jsonl and above, or set credit.on_failure = 'outcome'"
            )
        targets = self._targets(batch)
        sums = dict.fromkeys(_FIGURES, 0.0)
        updates, norm = 0, 0.0
        for epoch in range(settings.epochs):
            order = list(range(len(batch.ids)))
            random.Random(f"{self.recipe.seed} {step} {epoch}").shuffle(order)  # noqa: S311  # an order
            for rows in _chunks(order, self.recipe.minibatch):
                figures = self._accumulate(targets, rows)
                norm = float(
                    self.accelerator.clip_grad_norm_(
                        self.model.parameters(), self.recipe.optimiser.max_grad_norm
                    )
                )
                if not torch.isfinite(figures).all() or not math.isfinite(norm):
                    raise TrainingStopped(_not_a_number(figures, batch, rows, step, epoch))
                self.optimiser.step()
                self.optimiser.zero_grad()
                self.schedule.step()
                for name, value in zip(_FIGURES, figures.tolist(), strict=True):
                    sums[name] += value
                updates += 1
        if targets.base is None:
            del sums["kl"]
        return {
            **{name: value / updates for name, value in sums.items()},
            "grad_norm": norm,
            "learning_rate": self.schedule.get_last_lr()[0],
            "learn_seconds": time.monotonic() - started,
        }

    def _targets(self, batch: TrainingBatch) -> _Targets:
        settings = self.recipe.algorithm
        # After the first update the policy is no longer the one that sampled.
        several = settings.epochs * len(batch.ids) > self.recipe.minibatch
        return _Targets(
            batch=batch,
            advantage=batch.advantages(settings.advantage),
            old=self._frozen(self.model, batch) if several else None,
            base=None if self.reference is None else self._frozen(self.reference, batch),
        )

    def _frozen(self, model: nn.Module, batch: TrainingBatch) -> Tensor:
        """Log-probabilities (B, T) of all rollouts without gradients, shared by processes."""
        share = len(batch.ids) // self.accelerator.num_processes
        first = self.accelerator.process_index * share
        temperature = self.recipe.sampling.temperature
        with torch.no_grad(), self.accelerator.autocast():
            mine = [
                log_probabilities(model, batch.rows(part), temperature)
                for part in _chunks(range(first, first + share), self.recipe.algorithm.micro_batch)
            ]
        everything: Tensor = self.accelerator.gather(torch.cat(mine))
        return everything

    def _accumulate(self, targets: _Targets, rows: Sequence[int]) -> Tensor:
        """Gradients of one mini-batch. Returns `_FIGURES` of it, summed over processes."""
        settings, accelerator = self.recipe.algorithm, self.accelerator
        world, rank = accelerator.num_processes, accelerator.process_index
        clip = settings.clip_low, settings.clip_high
        batch = targets.batch
        total = float(weight_total(batch.mask[rows], settings.average))
        figures = torch.zeros(len(_FIGURES), device=targets.advantage.device)
        parts = list(_chunks(rows[rank::world], settings.micro_batch))
        for part in parts:
            some, advantage = batch.rows(part), targets.advantage[part]
            with nullcontext() if part is parts[-1] else accelerator.no_sync(self.model):
                logprobs = log_probabilities(self.model, some, self.recipe.sampling.temperature)
                before = logprobs.detach() if targets.old is None else targets.old[part]
                loss = policy_loss(logprobs, before, advantage, some.mask, clip)
                divergence = torch.zeros_like(loss)
                if targets.base is not None:
                    divergence = kl_to_reference(logprobs, targets.base[part], some.mask)
                    loss = loss + settings.kl * divergence
                weights = token_weights(some.mask, settings.average, total)
                # Gradients are averaged over processes, and their sum is needed.
                accelerator.backward((weights * loss).sum() * world)
            held = clipped(logprobs.detach(), before, advantage, clip)
            values = torch.stack([loss, divergence, held.float(), -logprobs]).detach()
            figures += torch.where(some.mask, weights * values, 0.0).sum((1, 2))
        summed: Tensor = accelerator.reduce(figures, "sum")
        return summed


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Consecutive items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _not_a_number(
    figures: Tensor, batch: TrainingBatch, rows: Sequence[int], step: int, epoch: int
) -> str:
    questions = sorted({int(batch.groups[row]) + 1 for row in rows})
    return (
        f"step {step + 1}, epoch {epoch + 1}: the loss is {figures[0].item()} on the mini-batch of "
        f"questions {questions} of the step (in the order of the step's prompts). No update was "
        "made; resume from the last checkpoint with a lower optimiser.learning_rate, or look at "
        "these rollouts (logging.samples)"
    )
