"""Evaluation during training: accuracy, and how often steps are wrong, on held-out questions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from capo_trainer import checkpoint
from capo_trainer.data import read_prompts
from capo_trainer.recipe import Recipe
from capo_trainer.reward_client import Bundles, CreditLink
from capo_trainer.sampling import Asked, Rollout, Sampler, encode_prompt
from capo_trainer.verify import Verifier, named_function
from capo_wire.segmentation import blank_line_steps

_BUNDLE = 16


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer: its outcome, which of its steps are wrong (None: not known), its tokens."""

    outcome: float | None
    wrong: list[bool] | None
    tokens: int


class Evaluator:
    """Answers held-out questions; true only if the recipe names some."""

    def __init__(self, recipe: Recipe, tokenizer: Any, verifier: Verifier) -> None:
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
        every = self._recipe.evaluation.every
        return bool(self) and (step % every == 0 or step == self._recipe.steps)

    def run(
        self, accelerator: Accelerator, model: Any, sampler: Sampler, link: CreditLink | None
    ) -> dict[str, Any]:
        """Figures over all questions: greedy (pass@1), and sampled if the recipe asks for it."""
        started = time.monotonic()
        settings = self._recipe.evaluation
        mine = self._prompts[accelerator.process_index :: accelerator.num_processes]
        figures: dict[str, Any] = {}
        for name, count in (("greedy", 1), ("sampled", settings.samples)):
            if not count:
                continue
            asked = [
                Asked(p, encode_prompt(self._tokenizer, p.question, self._recipe.policy),
                      f"evaluation prompt {p.index} rollout {number}")
                for p in mine
                for number in range(count)
            ]  # fmt: skip
            with checkpoint.whole_model(accelerator, model) as whole:
                whole.eval()
                rollouts = sampler.sample(whole, asked, greedy=name == "greedy")
                whole.train()
            judged = gather_object(self._judge(rollouts, link))
            figures |= {f"{name}_{key}": value for key, value in summary(judged).items()}
        figures["seconds"] = time.monotonic() - started
        return figures

    def _judge(self, rollouts: Sequence[Rollout], link: CreditLink | None) -> list[Judged]:
        outcomes = [self._verifier(r.text, r.asked.prompt.answer) for r in rollouts]
        wrong: list[list[bool] | None] = [None] * len(rollouts)
        if self._checker is not None:
            for i, rollout in enumerate(rollouts):
                steps = blank_line_steps(rollout.text)
                wrong[i] = list(self._checker(rollout.asked.prompt.question, steps))
        elif self.needs_service and link is not None:
            link.begin()
            bundles = Bundles(
                _BUNDLE, len(rollouts) or 1,
                lambda chosen: link.send([(i, rollouts[i], outcomes[i]) for i in chosen]),
            )  # fmt: skip
            for i in range(len(rollouts)):
                bundles.add(i)
            for i, credit in link.collect().credits.items():
                wrong[i] = credit.wrong
        lengths = [len(rollout.ids) for rollout in rollouts]
        return [Judged(*each) for each in zip(outcomes, wrong, lengths, strict=True)]


def summary(judged: Sequence[Judged]) -> dict[str, float]:
    """Rates over answers and steps.

    `accuracy`: right answers. `wrong_step_rate`: wrong steps among all. `lucky_rate`: right
    answers with a wrong step, among all answers. `tokens`: mean length. Answers whose steps are
    not known count for `accuracy` and `tokens` alone; `unknown` is how many they are.
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
