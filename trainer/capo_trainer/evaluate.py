"""Evaluation during training: accuracy, and the rate of wrong steps, on held-out questions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedTokenizerBase

from capo_trainer import checkpoint
from capo_trainer.credit_source import CreditSource
from capo_trainer.data import read_prompts
from capo_trainer.policy import encode_prompt
from capo_trainer.recipe import Recipe
from capo_trainer.sampling import Sampler, sample_all
from capo_trainer.types import SampledRollout, SampleRequest
from capo_trainer.verify import OutcomeVerifier, named_function
from capo_wire.segmentation import blank_line_steps


@dataclass(frozen=True, slots=True)
class JudgedSolution:
    """One answer: its outcome, which of its steps are wrong (None: unknown), its tokens."""

    outcome: float | None
    wrong: list[bool] | None
    tokens: int


class Evaluator:
    """Evaluates on held-out questions; falsy if the recipe names none."""

    def __init__(
        self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, verifier: OutcomeVerifier
    ) -> None:
        settings = recipe.evaluation
        self._recipe, self._tokenizer, self._verifier = recipe, tokenizer, verifier
        self._prompts = (
            read_prompts(settings.prompts, verifier, settings.limit) if settings.prompts else []
        )
        named = settings.checker not in ("service", "none")
        self._checker = named_function(settings.checker) if named else None

    def __bool__(self) -> bool:
        return bool(self._prompts)

    @property
    def needs_service(self) -> bool:
        """Whether the service finds the wrong steps."""
        return bool(self._prompts) and self._recipe.evaluation.checker == "service"

    def due(self, step: int) -> bool:
        """Whether an evaluation comes after `step` steps."""
        settings = self._recipe.evaluation
        if step == 0:
            return bool(self) and settings.at_start
        return bool(self) and (step % settings.every == 0 or step == self._recipe.steps)

    def run(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        sampler: Sampler,
        rewards: CreditSource | None,
    ) -> dict[str, Any]:
        """Figures over all questions: greedy (pass@1), and sampled if the recipe asks for it."""
        started = time.monotonic()
        mine = self._prompts[accelerator.process_index :: accelerator.num_processes]
        figures: dict[str, Any] = {}
        for name, count in (("greedy", 1), ("sampled", self._recipe.evaluation.samples)):
            if not count:
                continue
            requests = [
                SampleRequest(
                    prompt,
                    encode_prompt(self._tokenizer, prompt.question, self._recipe.policy),
                    f"evaluation prompt {prompt.index} rollout {number}",
                )
                for prompt in mine
                for number in range(count)
            ]
            with checkpoint.whole_model(accelerator, model) as whole:
                whole.eval()
                rollouts = sample_all(sampler, whole, requests, greedy=name == "greedy")
                whole.train()
            judged = gather_object(self._judge(rollouts, rewards))
            figures |= {f"{name}_{key}": value for key, value in summary(judged).items()}
        figures["seconds"] = time.monotonic() - started
        return figures

    def _judge(
        self, rollouts: Sequence[SampledRollout], rewards: CreditSource | None
    ) -> list[JudgedSolution]:
        outcomes = [self._verifier(r.own_text, r.request.prompt.answer) for r in rollouts]
        wrong: list[list[bool] | None] = [None] * len(rollouts)
        if self._checker is not None:
            for i, rollout in enumerate(rollouts):
                steps = rollout.turns or blank_line_steps(rollout.text)
                wrong[i] = list(self._checker(rollout.request.prompt.question, steps))
        elif self.needs_service and rewards is not None:
            for i, credit in rewards.credit_all(rollouts, outcomes).credits.items():
                wrong[i] = credit.wrong
        lengths = [rollout.own_tokens for rollout in rollouts]
        return [JudgedSolution(*each) for each in zip(outcomes, wrong, lengths, strict=True)]


def summary(judged: Sequence[JudgedSolution]) -> dict[str, float]:
    """Rates over answers and steps.

    `accuracy`: right answers. `wrong_step_rate`: wrong steps among all. `lucky_rate`: right
    answers with a wrong step, among all answers. `tokens`: mean length. Answers whose steps are
    unknown count for `accuracy` and `tokens` only; `unknown` is their number.
    """
    known = [each for each in judged if each.wrong is not None]
    steps = sum(len(each.wrong or ()) for each in known)
    figures = {
        "accuracy": sum(each.outcome or 0.0 for each in judged) / len(judged),
        "tokens": sum(each.tokens for each in judged) / len(judged),
        "unknown": float(len(judged) - len(known)),
    }
    if known:
        figures["wrong_step_rate"] = sum(sum(each.wrong or ()) for each in known) / max(steps, 1)
        lucky = sum(each.outcome == 1 and any(each.wrong or ()) for each in known)
        figures["lucky_rate"] = lucky / len(known)
    return figures
