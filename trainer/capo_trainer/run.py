"""What a run consists of, made from its recipe."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedTokenizerBase

from capo_trainer import checkpoint
from capo_trainer.credit_source import CreditSource, make_source
from capo_trainer.data import read_prompts
from capo_trainer.errors import RecipeError
from capo_trainer.evaluate import Evaluator
from capo_trainer.logs import Logs
from capo_trainer.policy import cosine, load_policy
from capo_trainer.ppo_update import Learner
from capo_trainer.recipe import Recipe
from capo_trainer.sampling import Sampler, TrajectorySampler, make_sampler
from capo_trainer.types import Prompt
from capo_trainer.verify import OutcomeVerifier, make_verifier, named_function


@dataclass(frozen=True, slots=True)
class Run:
    """The parts of a run. `credit_source` is None where none is needed."""

    recipe: Recipe
    accelerator: Accelerator
    prompts: Sequence[Prompt]
    tokenizer: PreTrainedTokenizerBase
    learner: Learner
    sampler: Sampler
    verifier: OutcomeVerifier
    credit_source: CreditSource | None
    evaluator: Evaluator
    logs: Logs
    steps_done: int

    @property
    def model(self) -> nn.Module:
        """The policy, as accelerate wraps it."""
        return self.learner.model

    def export(self, folder: Path) -> None:
        """Write the policy so that transformers and vLLM load it."""
        checkpoint.export(self.accelerator, self.model, self.tokenizer, folder)


def start_run(recipe: Recipe, resources: ExitStack) -> Run:
    """Load everything, from the last checkpoint if there is one.

    All that can be wrong is found before anything is trained, and inputs are checked before models
    are loaded.

    Args:
        recipe: the run.
        resources: closes what the run holds.

    Raises:
        TrainerError: a file, a package, the policy or the service cannot be used.
    """
    verifier = resources.enter_context(closing(make_verifier(recipe.data.verifier)))
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
    rewards = None
    if recipe.credit.reward != "outcome" or evaluator.needs_service:
        rewards = resources.enter_context(
            closing(make_source(recipe, tokenizer, recipe.logging.rollouts if main else 0))
        )
    learner = _make_learner(recipe, accelerator, model)
    sampler = make_sampler(tokenizer, recipe.sampling, recipe.seed, recipe.output)
    if recipe.data.environment:
        environment = named_function(recipe.data.environment)
        most = recipe.sampling.max_turns
        sampler = TrajectorySampler(sampler, tokenizer, environment, most, recipe.seed)
    steps_done = checkpoint.load(accelerator, recipe)
    logs = resources.enter_context(closing(Logs(recipe, enabled=main, first=steps_done)))
    run = Run(
        recipe=recipe,
        accelerator=accelerator,
        prompts=prompts,
        tokenizer=tokenizer,
        learner=learner,
        sampler=sampler,
        verifier=verifier,
        credit_source=rewards,
        evaluator=evaluator,
        logs=logs,
        steps_done=steps_done,
    )
    if steps_done:
        sampler.update(run.export)
    return run


def _make_learner(recipe: Recipe, accelerator: Accelerator, model: nn.Module) -> Learner:
    reference = None
    if recipe.algorithm.kl:
        reference = copy.deepcopy(model).requires_grad_(False).eval().to(accelerator.device)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.optimiser.learning_rate,
        betas=recipe.optimiser.betas,
        weight_decay=recipe.optimiser.weight_decay,
    )
    schedule = cosine(optimiser, recipe.optimiser, recipe.updates)
    model, optimiser = accelerator.prepare(model, optimiser)
    accelerator.register_for_checkpointing(schedule)
    return Learner(recipe, accelerator, model, reference, optimiser, schedule)
