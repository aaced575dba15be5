"""Sampling of trajectories: turns of the policy, and an environment's answers between them.

The tokens of a trajectory are those that the policy sampled and read, in their order; nothing is
tokenized again. Each turn is sampled by another sampler, all trajectories of a step together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from capo_trainer.sampling.base import FinishedRollouts, Sampler
from capo_trainer.types import SampledRollout, SampledTurn, SampleRequest


class Episode(Protocol):
    """The environment in one trajectory."""

    def answer(self, text: str) -> str | None:
        """What the policy reads after a turn, in the form of its chat template up to where it
        writes again; None: the trajectory is over."""


# (question, key): a trajectory's own key, so that what is random can be repeated.
Environment = Callable[[str, str], Episode]


@dataclass(slots=True)
class _Trajectory:
    request: SampleRequest
    episode: Episode
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    turns: list[SampledTurn] = field(default_factory=list)

    def next_turn(self) -> SampleRequest:
        key = f"{self.request.key} turn {len(self.turns)}"
        return replace(self.request, prompt_ids=[*self.request.prompt_ids, *self.ids], key=key)

    def add(self, ids: Sequence[int], own: int) -> None:
        self.ids += ids
        self.mask += [own] * len(ids)


class TrajectorySampler:
    """A `Sampler` of trajectories.

    Args:
        sampler: samples single turns.
        tokenizer: the policy's.
        environment: what answers.
        most_turns: after so many turns a trajectory is cut off.
        seed: the run's.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        environment: Environment,
        most_turns: int,
        seed: int,
    ) -> None:
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._environment = environment
        self._most_turns = most_turns
        self._seed = seed

    def update(self, save: Callable[[Path], None]) -> None:
        """Take new weights."""
        self._sampler.update(save)

    def sample(
        self,
        model: PreTrainedModel | None,
        requests: Sequence[SampleRequest],
        *,
        greedy: bool = False,
    ) -> FinishedRollouts:
        going = {
            position: _Trajectory(
                request, self._environment(request.prompt.question, f"{self._seed} {request.key}")
            )
            for position, request in enumerate(requests)
        }
        for _ in range(self._most_turns):
            positions = list(going)
            if not positions:
                return
            turns = [going[position].next_turn() for position in positions]
            with closing(self._sampler.sample(model, turns, greedy=greedy)) as sampled:
                for at, turn in sampled:
                    trajectory = going[positions[at]]
                    if not self._goes_on(trajectory, turn):
                        del going[positions[at]]
                        yield positions[at], self._rollout(trajectory, turn.finished)
        for position, trajectory in going.items():
            yield position, self._rollout(trajectory, False)

    def _goes_on(self, trajectory: _Trajectory, turn: SampledRollout) -> bool:
        """Add a turn and what the environment answers; whether another turn follows."""
        trajectory.add(turn.ids, 1)
        answer = trajectory.episode.answer(turn.text) if turn.finished else None
        read = self._tokenizer.encode(answer, add_special_tokens=False) if answer else []
        trajectory.add(read, 0)
        observed = self._tokenizer.decode(read, skip_special_tokens=True).strip()
        trajectory.turns.append(SampledTurn(turn.text, observed))
        return answer is not None

    def _rollout(self, trajectory: _Trajectory, finished: bool) -> SampledRollout:
        text = self._tokenizer.decode(trajectory.ids, skip_special_tokens=True)
        return SampledRollout(
            trajectory.request,
            trajectory.ids,
            text,
            finished,
            trajectory.mask,
            trajectory.turns,
        )
