"""What passes between the parts of a training step: prompts, rollouts, credit.

A step's rollouts are known by their position: those of one question stand side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import capo_wire as wire


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question; `index` is its position in the file."""

    index: int
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One rollout to sample. `key` decides its random stream."""

    prompt: Prompt
    prompt_ids: list[int]
    key: str


@dataclass(frozen=True, slots=True)
class SampledTurn:
    """A turn of the policy, and what the environment answered, without control tokens."""

    text: str
    observation: str


@dataclass(frozen=True, slots=True)
class SampledRollout:
    """One sampled answer. `ids` are the sampled tokens, the end token included where `finished`.

    Of a trajectory, `ids` include what the environment answered; `mask` is 1 for the tokens that
    the policy sampled and 0 for the others, and `turns` has both as text.
    """

    request: SampleRequest
    ids: list[int]
    text: str
    finished: bool
    mask: list[int] | None = None
    turns: list[SampledTurn] | None = None

    @property
    def own_text(self) -> str:
        """What the policy wrote; turns are separated by blank lines."""
        return self.text if self.turns is None else "\n\n".join(t.text for t in self.turns)

    @property
    def own_tokens(self) -> int:
        """The number of tokens that the policy sampled."""
        return len(self.ids) if self.mask is None else sum(self.mask)


@dataclass(frozen=True, slots=True)
class RolloutCredit:
    """Credit of one rollout of L tokens.

    `penalties`: L floats in [0, 1], the share of W_process taken from each token (eq. 1). `wrong`:
    one bool a step. `spans`: the tokens [first, end) of each step.
    """

    penalties: list[float]
    wrong: list[bool]
    spans: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of_steps(
        cls,
        penalties: Sequence[float],
        wrong: list[bool],
        spans: list[tuple[int, int]],
        length: int,
    ) -> RolloutCredit:
        """Each step's penalty on each of its tokens; tokens in no step have 0."""
        tokens = [0.0] * length
        for (first, end), penalty in zip(spans, penalties, strict=True):
            tokens[first:end] = [penalty] * (end - first)
        return cls(tokens, wrong, spans)


@dataclass(slots=True)
class StepCredit:
    """Credit of one step's rollouts, by position. Rollouts without credit are missing from
    `credits`, and their reasons are counted in `failures`."""

    credits: dict[int, RolloutCredit] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    usage: wire.Usage = field(default_factory=wire.Usage)
    results: dict[int, wire.Credited] = field(default_factory=dict)  # of the first few rollouts
    wait_seconds: float = 0.0  # from the end of sampling to the last credit

    def add(self, other: StepCredit, first: int) -> None:
        """Add the credit of another process's rollouts, whose positions start at `first`."""
        self.credits |= {first + position: credit for position, credit in other.credits.items()}
        self.results |= {first + position: result for position, result in other.results.items()}
        self.failures += other.failures
        self.usage += other.usage
        self.wait_seconds = max(self.wait_seconds, other.wait_seconds)


@dataclass(slots=True)
class StepSamples:
    """One step's rollouts with their outcomes r_v (None: undecided) and their credit (None: the
    reward is the outcome alone). `seconds`: time spent sampling."""

    rollouts: list[SampledRollout]
    outcomes: list[float | None]
    credit: StepCredit | None
    seconds: float
