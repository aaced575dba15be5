"""What each vote does to a judge's errors, exactly, where errors are independent.

Of k critiques, the number that name a wrong step is binomial with the judge's recall, and the
number that name a right one with its rate of false alarms. No training is involved.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, sqrt

from capo_testbed.simulated import WRONG_SHARE, Rates, vote
from capo_wire import VotingMethod


@dataclass(frozen=True, slots=True)
class Voted:
    """A vote's result on steps of the starting policy.

    Attributes:
        recall: mean penalty of a wrong step.
        false_alarm: mean penalty of a right step.
        precision: share of all penalties that falls on wrong steps.
        noise: standard deviation of a wrong step's penalty.
    """

    recall: float
    false_alarm: float
    precision: float
    noise: float

    @property
    def misses(self) -> float:
        """The share of wrong steps' penalty that is not given."""
        return 1 - self.recall

    @property
    def signal(self) -> float:
        """By how much a wrong step is penalised more than a right one."""
        return self.recall - self.false_alarm


def voted(rates: Rates, method: VotingMethod, k: int, wrong_share: float = WRONG_SHARE) -> Voted:
    """The vote of k critiques with independent errors; with systematic ones every vote is as k = 1.

    Args:
        rates: of one critique.
        method: the vote.
        k: number of critiques.
        wrong_share: the share of steps that are wrong.
    """
    recall, square = _moments(rates.recall, method, k)
    false_alarm, _ = _moments(rates.false_alarm, method, k)
    wrong, right = wrong_share * recall, (1 - wrong_share) * false_alarm
    precision = wrong / (wrong + right) if wrong + right else 1.0
    return Voted(recall, false_alarm, precision, sqrt(max(square - recall**2, 0.0)))


def _moments(rate: float, method: VotingMethod, k: int) -> tuple[float, float]:
    """Mean, and mean of the square, of the penalty of a step that each critique names at `rate`."""
    mean = square = 0.0
    for count in range(k + 1):
        probability = comb(k, count) * rate**count * (1 - rate) ** (k - count)
        penalty = vote(method, count, k)
        mean += probability * penalty
        square += probability * penalty**2
    return mean, square
