"""The training loop: sample, credit, learn. Reads from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from capo_trainer import checkpoint
from capo_trainer.batch import TrainingBatch, make_batch
from capo_trainer.data import prompts_of_step
from capo_trainer.errors import TrainingStopped
from capo_trainer.policy import encode_prompt
from capo_trainer.recipe import Recipe
from capo_trainer.run import Run, start_run
from capo_trainer.types import SampledRollout, SampleRequest, StepCredit, StepSamples


def train(recipe: Recipe) -> Path:
    """Run a recipe to its end, from its last checkpoint if there is one.

    Returns:
        The folder of the trained policy.

    Raises:
        TrainerError: something that the recipe needs cannot be used, or training cannot go on.
    """
    with ExitStack() as resources:
        run = start_run(recipe, resources)
        if run.steps_done == 0 and run.evaluator.due(0):
            evaluate(run, 0)
        for step in range(run.steps_done, recipe.steps):
            started = time.monotonic()
            requests = make_requests(run, step)
            samples = of_all_processes(sample_and_credit(run, requests))
            # The rewards: eq. 1 of CAPO, or eq. 3.
            batch = make_batch(
                samples.rollouts,
                samples.outcomes,
                samples.credit.credits if samples.credit else None,
                recipe,
                run.tokenizer.pad_token_id,
                run.accelerator.device,
            )
            # The advantages (eq. 2), and the updates by PPO.
            learned = run.learner.learn(batch, step)
            run.sampler.update(run.export)

            record = summarise(samples, batch, learned, time.monotonic() - started)
            run.logs.step(step + 1, record, samples)
            if run.evaluator.due(step + 1):
                evaluate(run, step + 1)
            if (step + 1) % recipe.checkpoints.every == 0 or step + 1 == recipe.steps:
                checkpoint.save(run.accelerator, recipe, step + 1)
        target = recipe.output / "policy"
        run.export(target)
    run.accelerator.end_training()
    return target


def make_requests(run: Run, step: int) -> list[SampleRequest]:
    """This process's share of a step: n rollouts of each question, side by side, each with a random
    stream of its own."""
    recipe = run.recipe
    count, shuffle = recipe.data.prompts_per_step, recipe.data.shuffle
    prompts = prompts_of_step(run.prompts, step, count, recipe.seed, shuffle)
    share = count // run.accelerator.num_processes
    first = run.accelerator.process_index * share
    requests = []
    for question, prompt in enumerate(prompts[first : first + share], first):
        ids = encode_prompt(run.tokenizer, prompt.question, recipe.policy)
        if len(ids) > recipe.data.max_prompt_tokens:
            raise TrainingStopped(
                f"prompt {prompt.index + 1} of {recipe.data.prompts} has {len(ids)} tokens; raise "
                f"data.max_prompt_tokens ({recipe.data.max_prompt_tokens}) or leave it out"
            )
        requests += [
            SampleRequest(prompt, ids, f"step {step} question {question} rollout {number}")
            for number in range(recipe.sampling.rollouts_per_prompt)
        ]
    return requests


def sample_and_credit(run: Run, requests: Sequence[SampleRequest]) -> StepSamples:
    """Sample rollouts, verify their outcomes, and have them credited while others are sampled."""
    rewards = None if run.recipe.credit.reward == "outcome" else run.credit_source
    overlap = run.recipe.credit.overlap
    rollouts: dict[int, SampledRollout] = {}
    outcomes: dict[int, float | None] = {}
    if rewards is not None:
        rewards.begin()
    started = time.monotonic()
    with checkpoint.whole_model(run.accelerator, run.model) as model:
        model.eval()
        with closing(run.sampler.sample(model, requests)) as finished:
            for position, rollout in finished:
                rollouts[position] = rollout
                outcomes[position] = run.verifier(rollout.own_text, rollout.request.prompt.answer)
                if rewards is not None and overlap:
                    rewards.submit(position, rollout, outcomes[position])
        model.train()
    seconds = time.monotonic() - started
    positions = range(len(requests))
    if rewards is not None and not overlap:
        for position in positions:
            rewards.submit(position, rollouts[position], outcomes[position])
    return StepSamples(
        [rollouts[position] for position in positions],
        [outcomes[position] for position in positions],
        None if rewards is None else rewards.collect(),
        seconds,
    )


def of_all_processes(mine: StepSamples) -> StepSamples:
    """What all processes sampled, on each of them; seconds are those of the slowest."""
    parts: list[StepSamples] = gather_object([mine])
    if len(parts) == 1:
        return mine
    everything = StepSamples([], [], None, max(part.seconds for part in parts))
    for part in parts:
        if part.credit is not None:
            everything.credit = everything.credit or StepCredit()
            everything.credit.add(part.credit, len(everything.rollouts))
        everything.rollouts += part.rollouts
        everything.outcomes += part.outcomes
    return everything


def evaluate(run: Run, step: int) -> None:
    """Answer the held-out questions, after `step` steps."""
    figures = run.evaluator.run(run.accelerator, run.model, run.sampler, run.credit_source)
    run.logs.evaluation(step, figures)


def summarise(
    samples: StepSamples, batch: TrainingBatch, learned: dict[str, float], seconds: float
) -> dict[str, Any]:
    """The step's record in metrics.jsonl."""
    counts, rollouts = batch.counts, len(samples.rollouts)
    credit = samples.credit or StepCredit()
    tokens = sum(rollout.own_tokens for rollout in samples.rollouts)
    steps = counts["steps"]
    return {
        "rollouts": rollouts,
        "accuracy": counts["right"] / rollouts,
        "wrong_step_rate": counts["wrong_steps"] / steps if steps else None,
        "mean_tokens": tokens / rollouts,
        **learned,
        **{name: counts[name] for name in ("blank", "truncated", "unverified", "uncredited")},
        "failures": dict(credit.failures),
        "tokens": tokens,
        "prompt_tokens": sum(len(rollout.request.prompt_ids) for rollout in samples.rollouts),
        "critiques": credit.usage.critiques_run,
        "judge_prompt_tokens": credit.usage.prompt_tokens,
        "judge_cached_tokens": credit.usage.cached_tokens,
        "judge_completion_tokens": credit.usage.completion_tokens,
        "sample_seconds": samples.seconds,
        "wait_seconds": credit.wait_seconds,
        "step_seconds": seconds,
    }
