"""Sampling rollouts: by transformers in this process, or by an OpenAI-compatible server.

Every rollout has a random stream of its own, which depends on the seed, the step, the question and
its number alone. So neither the batch that it is sampled in, nor the number of processes, nor a
resumed run changes what is sampled (up to rounding of the logits).
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from capo_trainer.sampling.base import Sampler, sample_all
from capo_trainer.sampling.local import LocalSampler
from capo_trainer.sampling.server import ServerSampler
from capo_trainer.sampling.trajectories import Environment, Episode, TrajectorySampler
from capo_trainer.sections import Sampling

__all__ = [
    "Environment",
    "Episode",
    "LocalSampler",
    "Sampler",
    "ServerSampler",
    "TrajectorySampler",
    "make_sampler",
    "sample_all",
]


def make_sampler(
    tokenizer: PreTrainedTokenizerBase, settings: Sampling, seed: int, output: Path
) -> Sampler:
    """The sampler that the recipe names."""
    if settings.engine == "openai":
        return ServerSampler(tokenizer, settings, seed, output / "sampling_weights")
    return LocalSampler(tokenizer, settings, seed)
