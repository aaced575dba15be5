"""k critiques -> a penalty per step (CAPO, section 3.3), and whether the vote is decided.

A vote is decided when no further critique can change a penalty, or what holds of a criterion. A
critique is the set of step indices that it calls wrong, or None if it could not be parsed, in
which case it does not vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from capo_service.core.criteria import CriterionCount, Place
from capo_service.core.vote_rules import Method, is_fixed, share

WrongSteps = frozenset[int] | None  # of one critique


@dataclass(frozen=True, slots=True)
class VoteCount:
    """The votes on every step and criterion.

    Attributes:
        counts: readable critiques of the judge that call each step wrong.
        valid: readable critiques of the judge.
        false_steps: steps in which the arithmetic checker found a false equation.
        weight: votes that the checker casts against each of these; it abstains on all others.
        criteria: the judge's votes on each criterion.
    """

    counts: Sequence[int]
    valid: int
    false_steps: Collection[int] = ()
    weight: int = 0
    criteria: Sequence[CriterionCount] = ()

    @property
    def n_steps(self) -> int:
        """The number of steps."""
        return len(self.counts)

    @classmethod
    def of(
        cls,
        critiques: Sequence[WrongSteps],
        n_steps: int,
        false_steps: Collection[int] = (),
        weight: int = 0,
    ) -> VoteCount:
        """Count the critiques of a rollout with `n_steps` steps."""
        readable = [critique for critique in critiques if critique is not None]
        votes = Counter(step for critique in readable for step in critique)
        counts = [votes[step] for step in range(n_steps)]
        return cls(counts, len(readable), false_steps, weight)

    def on_step(self, step: int) -> tuple[int, int]:
        """How many votes call a step wrong, and how many there are on it."""
        weight = self.weight if step in self.false_steps else 0
        return self.counts[step] + weight, self.valid + weight

    def penalties(self, method: Method) -> list[float]:
        """The share of `W_process` that each step loses: 0 or 1, or wrong/valid for `average`.

        `majority` follows the paper: wrong >= valid/2, and at least one; a tie counts as wrong.

        Raises:
            ValueError: there is no readable critique, so nothing is known about any step.
        """
        if self.valid < 1:
            raise ValueError("no valid critique: a vote needs at least one")
        return [share(method, wrong, valid) for wrong, valid in self.on_steps()]

    def decided(self, method: Method, remaining: int) -> bool:
        """Whether no outcome of the `remaining` critiques can change any penalty or criterion.

        Each of them may call any steps wrong, or be unreadable. With no readable critique so far
        nothing is decided: the rollout may still end in an error.
        """
        if remaining == 0:
            return True
        if self.valid == 0:
            return False
        return all(is_fixed(method, *votes, remaining) for votes in self.on_steps()) and all(
            criterion.is_fixed(method, remaining) for criterion in self.criteria
        )

    def next_wave(self, method: Method, remaining: int) -> int:
        """How many of the `remaining` critiques to sample next.

        Smallest number of further critiques that could decide the vote, assuming that unflagged
        steps stay unflagged. A smaller wave could not end the vote, so waiting for it would cost
        time and save nothing.
        """
        for size in range(1, remaining):
            if all(
                _may_be_fixed(method, *votes, size, remaining) for votes in self.on_steps()
            ) and all(each.may_be_fixed(method, size, remaining) for each in self.criteria):
                return size
        return remaining

    def on_steps(self) -> Iterator[tuple[int, int]]:
        """`on_step` of each step."""
        return map(self.on_step, range(len(self.counts)))


class WindowVotes(Protocol):
    """The votes on one window: those of `VoteCount`, or exact ones."""

    @property
    def n_steps(self) -> int:
        """The number of its steps."""

    @property
    def valid(self) -> int:
        """The number of verdicts that were read."""

    @property
    def criteria(self) -> Sequence[CriterionCount]:
        """The judge's votes on each criterion."""

    def on_steps(self) -> Iterable[tuple[int, int]]:
        """For each step, how many votes call it wrong, and how many there are on it."""

    def penalties(self, method: Method) -> list[float]:
        """As `VoteCount.penalties`."""


@dataclass(frozen=True, slots=True)
class JoinedVotes:
    """The votes on all steps of a rollout, whose windows were voted on separately.

    Attributes:
        windows: the votes on each window, in order.
        first_error_only: the judge names only the first wrong step of what it sees. A later window
            then says nothing about the first wrong step of the rollout, so that its penalties count
            only if no step before it was voted wrong.
    """

    windows: Sequence[WindowVotes]
    first_error_only: bool = False

    @property
    def silent(self) -> list[int]:
        """The windows without a readable critique."""
        return [number for number, votes in enumerate(self.windows) if not votes.valid]

    def on_steps(self) -> list[tuple[int, int]]:
        """For each step, how many votes call it wrong, and how many there are on it."""
        return [vote for votes in self.windows for vote in votes.on_steps()]

    def penalties(self, method: Method) -> list[float]:
        """As `VoteCount.penalties`."""
        joined: list[float] = []
        for votes in self.windows:
            found = votes.penalties(method)
            if self.first_error_only and any(penalty >= 0.5 for penalty in joined):
                found = [0.0] * len(found)
            joined += found
        return joined

    def criteria(self, method: Method) -> list[tuple[CriterionCount, Place]]:
        """The votes on each criterion, and the step of the rollout at which it holds, or None.

        A criterion holds if it holds in any window. Its votes are those of the window with the
        highest share, the first of several.
        """
        lengths = [votes.n_steps for votes in self.windows]
        firsts = list(accumulate(lengths, initial=0))
        joined: list[tuple[CriterionCount, Place]] = []
        for counts in zip(*(votes.criteria for votes in self.windows), strict=True):
            shares = [count.share(method) for count in counts]
            window = shares.index(max(shares))
            place = counts[window].place if shares[window] else None
            joined.append((counts[window], None if place is None else place + firsts[window]))
        return joined


def _may_be_fixed(method: Method, wrong: int, valid: int, size: int, remaining: int) -> bool:
    """Whether a wave of `size` critiques can fix a step's penalty, in the expected outcomes.

    Expected is that all of them are readable and, for a step that was called wrong before, that
    either all or none of them call it wrong; an unflagged step stays unflagged.
    """
    rest = remaining - size
    if is_fixed(method, wrong, valid + size, rest):
        return True
    return wrong > 0 and is_fixed(method, wrong + size, valid + size, rest)
