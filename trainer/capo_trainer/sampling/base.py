"""What a sampler is: an iterator of finished rollouts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedModel

from capo_trainer.types import SampledRollout, SampleRequest

# (position in the requests, rollout), in the order in which rollouts finish.
FinishedRollouts = Generator[tuple[int, SampledRollout], None, None]


class Sampler(Protocol):
    """Samples rollouts of the policy as it is."""

    def sample(
        self,
        model: PreTrainedModel | None,
        requests: Sequence[SampleRequest],
        *,
        greedy: bool = False,
    ) -> FinishedRollouts:
        """Yield each rollout, with its position in `requests`, as soon as it is finished.

        Sampling goes on while the caller works on what was yielded. Closing the iterator ends it.

        Args:
            model: the policy; a sampler whose server has the weights ignores it.
            requests: rollouts to sample; those of one question side by side.
            greedy: take the likeliest token in place of a random one.

        Raises:
            SamplingError: the sampling server cannot be used.
        """

    def update(self, save: Callable[[Path], None]) -> None:
        """Take new weights; `save` writes them to a folder."""


def sample_all(
    sampler: Sampler,
    model: PreTrainedModel | None,
    requests: Sequence[SampleRequest],
    *,
    greedy: bool = False,
) -> list[SampledRollout]:
    """All rollouts, in the order of `requests`."""
    with closing(sampler.sample(model, requests, greedy=greedy)) as finished:
        rollouts = dict(finished)
    return [rollouts[position] for position in range(len(requests))]


def stream_seed(seed: int, key: str) -> int:
    """A 63-bit seed for one rollout's random stream."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8], "big") >> 1
