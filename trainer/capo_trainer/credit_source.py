"""Where credit comes from: the service, or a class of the user's own (`credit.source`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from capo_trainer.recipe import Recipe
from capo_trainer.reward_client import RewardClient
from capo_trainer.types import SampledRollout, StepCredit
from capo_trainer.verify import named_function

SERVICE = "service"


class CreditSource(Protocol):
    """A source of credit. Each step: `begin`, `submit` every rollout, `collect`.

    A class named by `credit.source` is called with (settings of [credit], the policy's tokenizer).
    """

    def begin(self) -> None:
        """Start a step; what is left of the last one is dropped."""

    def submit(self, position: int, rollout: SampledRollout, outcome: float | None) -> None:
        """A finished rollout, by its position in the step. Must not block."""

    def collect(self) -> StepCredit:
        """Wait for the credit of all rollouts that were submitted since `begin`."""

    def credit_all(
        self, rollouts: Sequence[SampledRollout], outcomes: Sequence[float | None]
    ) -> StepCredit:
        """The credit of finished rollouts, as a step of their own."""

    def close(self) -> None:
        """Release everything. May be called more than once."""


def make_source(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, keep: int) -> CreditSource:
    """The source that the recipe names.

    Args:
        recipe: of the run.
        tokenizer: the policy's.
        keep: number of rollouts of a step, the first ones, whose whole result is kept.

    Raises:
        RecipeError: `credit.source` cannot be imported.
        RewardServiceError, TokenizerNotServedError: the service cannot be used.
    """
    settings = recipe.credit
    if settings.source == SERVICE:
        per_question = recipe.sampling.rollouts_per_prompt
        return RewardClient(settings, per_question, run=recipe.output.name, keep=keep)
    made: CreditSource = named_function(settings.source)(settings, tokenizer)
    return made
