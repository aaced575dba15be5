"""How much of their budget thoughts take, measured from recent critiques of the judge."""

from __future__ import annotations

from dataclasses import dataclass

INITIAL_SHARE = 0.5  # of a budget, before a thought was measured
_INITIAL_WEIGHT = 4  # thoughts that the initial guess counts for
_REMEMBERED = 200  # thoughts, roughly, so that new weights or another policy show within minutes


@dataclass(slots=True)
class _Mean:
    """A mean that becomes a moving average after `_REMEMBERED` values."""

    value: float = INITIAL_SHARE
    weight: int = _INITIAL_WEIGHT

    def add(self, value: float) -> None:
        self.weight = min(self.weight + 1, _REMEMBERED)
        self.value += (value - self.value) / self.weight


class ThoughtLengths:
    """The mean length of the judge's thoughts, as a share of their budget.

    Budgets of similar size, those between two powers of two, have one mean, so that memory is
    bounded whatever budgets requests name. A size of which nothing was measured has the initial
    guess: half of the budget.
    """

    def __init__(self) -> None:
        self._shares: dict[int, _Mean] = {}

    def record(self, budget: int, tokens: int) -> None:
        """Record a thought of `tokens`, of a critique that may think `budget` tokens."""
        mean = self._shares.setdefault(budget.bit_length(), _Mean())
        mean.add(min(tokens / budget, 1.0))

    def expected_tokens(self, budget: int) -> int:
        """The tokens that a thought takes on average; 0 if the judge does not think."""
        mean = self._shares.get(budget.bit_length())
        return round(budget * (mean.value if mean else INITIAL_SHARE))
