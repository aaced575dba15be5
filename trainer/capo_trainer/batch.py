"""One step's rollouts as tensors, with their rewards, and their log-probabilities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capo_trainer.algorithm import Advantage, advantages, genorm_reward
from capo_trainer.placement import place
from capo_trainer.recipe import Recipe
from capo_trainer.types import RolloutCredit, SampledRollout


@dataclass(slots=True)
class TrainingBatch:
    """B rollouts: prompts padded on the left to P tokens, responses on the right to T.

    `ids`, `attention` (B, P + T); `mask` (B, T) is True at tokens that are learnt from; `outcome`
    (B,) and `process` (B, T) as in `advantages`; `groups` (B,).
    """

    ids: Tensor
    attention: Tensor
    mask: Tensor
    outcome: Tensor
    process: Tensor
    groups: Tensor
    counts: Counter[str]

    @property
    def width(self) -> int:
        """T."""
        return int(self.mask.shape[1])

    def advantages(self, variant: Advantage) -> Tensor:
        """(B, T); rollouts that are left out do not count in their group's mean."""
        return advantages(self.outcome, self.process, self.mask, self.groups, variant)

    def rows(self, chosen: Sequence[int]) -> TrainingBatch:
        """Some of the rollouts."""
        index = torch.tensor(chosen, dtype=torch.long, device=self.ids.device)
        return TrainingBatch(
            self.ids[index],
            self.attention[index],
            self.mask[index],
            self.outcome[index],
            self.process[index],
            self.groups[index],
            self.counts,
        )


def make_batch(
    rollouts: Sequence[SampledRollout],
    outcomes: Sequence[float | None],
    credits: Mapping[int, RolloutCredit] | None,
    recipe: Recipe,
    pad: int,
    device: torch.device | str,
) -> TrainingBatch:
    """Rewards of rollouts (eq. 1, or eq. 3), and the tokens that are learnt from.

    Args:
        rollouts: those of a question side by side.
        outcomes: r_v; a rollout whose outcome is None, undecided, is left out.
        credits: by position; for rollouts without credit the recipe's `on_failure` holds. None: the
            reward is the outcome alone.
        recipe: the run's.
        pad: the id that pads.
        device: where the tensors go.
    """
    count, per_question = len(rollouts), recipe.sampling.rollouts_per_prompt
    before = max(len(r.request.prompt_ids) for r in rollouts)
    after = max(max(len(r.ids) for r in rollouts), 1)
    ids = torch.full((count, before + after), pad, dtype=torch.long)
    attention = torch.zeros((count, before + after), dtype=torch.long)
    mask = torch.zeros((count, after), dtype=torch.bool)
    outcome, process = torch.zeros(count), torch.zeros(count, after)
    counts: Counter[str] = Counter()
    for row, (rollout, verified) in enumerate(zip(rollouts, outcomes, strict=True)):
        prompt_ids, length = rollout.request.prompt_ids, len(rollout.ids)
        start = before - len(prompt_ids)
        ids[row, start : before + length] = torch.tensor([*prompt_ids, *rollout.ids])
        attention[row, start : before + length] = 1
        credit = (credits or {}).get(row)
        if credit is not None:
            seed = f"{recipe.seed} {rollout.request.key}"
            credit = place(credit, recipe.credit.placement, seed)
        blank = not rollout.own_text.strip()
        counts["blank"] += blank
        counts["truncated"] += not rollout.finished
        counts["right"] += verified == 1
        if verified is None:
            counts["unverified"] += 1
            continue
        if credits is not None and credit is None and not blank:
            counts["uncredited"] += 1
            if recipe.credit.on_failure == "skip":
                continue
        if rollout.finished or recipe.algorithm.truncated == "keep":
            mask[row, :length] = torch.tensor(rollout.mask or [1] * length).bool()
        outcome[row] = whole_reward(rollout, verified, credit, recipe)
        if credit is not None:
            counts["steps"] += len(credit.wrong)
            counts["wrong_steps"] += sum(credit.wrong)
            if recipe.credit.reward == "capo":
                penalties = torch.tensor(credit.penalties)
                process[row, :length] = -recipe.credit.w_process * penalties
    groups = torch.arange(count) // per_question
    return TrainingBatch(
        ids.to(device),
        attention.to(device),
        mask.to(device),
        outcome.to(device),
        process.to(device),
        groups.to(device),
        counts,
    )


def whole_reward(
    rollout: SampledRollout,
    verified: float,
    credit: RolloutCredit | None,
    recipe: Recipe,
) -> float:
    """The reward of the whole rollout: W_whole * r_v, or eq. 3, and the format reward."""
    reward = recipe.credit.w_whole * verified
    if recipe.credit.reward == "generative_outcome":
        # r_m: +1 where the judge finds no wrong step, -1 where it finds one, 0 without a judge.
        judged = 0.0 if credit is None else -1.0 if any(credit.wrong) else 1.0
        generative = genorm_reward(
            torch.tensor(verified),
            torch.tensor(judged),
            recipe.credit.alpha,
            recipe.credit.beta,
        )
        reward = recipe.credit.w_whole * float(generative)
    algorithm = recipe.algorithm
    if algorithm.format_reward and re.search(algorithm.format_pattern, rollout.own_text):
        reward += algorithm.format_reward
    return reward


def log_probabilities(model: nn.Module, batch: TrainingBatch, temperature: float) -> Tensor:
    """(B, T) float32: of each sampled token under the model at the sampling temperature.

    Top-p is left out, as is usual: a token that the new policy's top-p drops has no ratio.
    """
    width = batch.width
    positions = (batch.attention.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=batch.ids,
        attention_mask=batch.attention,
        position_ids=positions,
        logits_to_keep=width + 1,
        use_cache=False,
    ).logits[:, :-1]
    logits = logits.float() / temperature
    chosen = logits.gather(-1, batch.ids[:, -width:, None]).squeeze(-1)
    return chosen - logits.logsumexp(-1)
