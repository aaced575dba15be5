"""k critiques -> a penalty for each step (CAPO, section 3.3), and whether the vote is decided.

A critique is the set of step indices that it calls wrong, or None where it could not be read; an
unreadable critique does not vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

Method = Literal["greedy", "intersection", "majority", "union", "average"]
Critique = frozenset[int] | None


def count_votes(critiques: Sequence[Critique], n_steps: int) -> tuple[list[int], int]:
    """How many valid critiques name each step, and how many valid critiques there are."""
    valid = [critique for critique in critiques if critique is not None]
    named = Counter(step for critique in valid for step in critique)
    return [named[step] for step in range(n_steps)], len(valid)


def penalties(method: Method, counts: Sequence[int], valid: int) -> list[float]:
    """The share of `W_process` that each step loses: 0 or 1, or counts/valid for `average`.

    `majority` follows the paper: count >= valid/2, at least one; a tie counts as wrong.

    Raises:
        ValueError: there is no valid critique, so nothing is known about any step.
    """
    if valid < 1:
        raise ValueError("no valid critique: a vote needs at least one")
    if method == "average":
        return [count / valid for count in counts]
    needed = {"union": 1.0, "majority": max(1.0, valid / 2)}.get(method, float(valid))
    return [float(count >= needed) for count in counts]


def decided(method: Method, counts: Sequence[int], valid: int, remaining: int) -> bool:
    """Whether no outcome of the `remaining` critiques can change any step's penalty.

    Each of them may name any steps, or turn out invalid. With no valid critique so far nothing
    is decided: the rollout may yet be an error.
    """
    if remaining == 0:
        return True
    if valid == 0 or method == "average":
        return False
    return all(_is_fixed(method, count, valid, remaining) for count in counts)


def next_wave(method: Method, counts: Sequence[int], valid: int, remaining: int) -> int:
    """How many of the `remaining` critiques to sample next, where sampling all at once is dear.

    As few as could decide the vote, if steps that nobody has named stay unnamed; those that
    somebody has named may go either way. With fewer the vote could not end, so waiting for them
    alone would cost time and save nothing.
    """
    for more in range(1, remaining):
        left = remaining - more
        if method != "average" and all(
            _is_fixed(method, count, valid + more, left)
            or (count and _is_fixed(method, count + more, valid + more, left))
            for count in counts
        ):
            return more
    return remaining


def _is_fixed(method: Method, count: int, valid: int, remaining: int) -> bool:
    if method == "union":
        return count >= 1
    if method == "majority":
        surely_wrong = count >= 1 and 2 * count >= valid + remaining
        # Worst case for a right step: every further critique is valid and names it.
        surely_right = 2 * (count + remaining) < valid + remaining
        return surely_wrong or surely_right
    # intersection and greedy: one valid critique that does not name the step clears it.
    return count < valid


@dataclass(frozen=True, slots=True)
class Votes:
    """The judge's votes, and those of a critic that speaks only where it is sure.

    That critic casts `weight` votes against each of the steps `sure`, and abstains on the others:
    a step has its own number of valid critiques. Without a critique of the judge nothing is known.
    """

    counts: Sequence[int]
    valid: int
    sure: Collection[int] = ()
    weight: int = 0

    def of(self, step: int) -> tuple[int, int]:
        """How many critiques call a step wrong, and how many speak of it."""
        more = self.weight if step in self.sure else 0
        return self.counts[step] + more, self.valid + more

    def penalties(self, method: Method) -> list[float]:
        """See `penalties`."""
        found = penalties(method, self.counts, self.valid)
        for step in self.sure:
            wrong, valid = self.of(step)
            [found[step]] = penalties(method, [wrong], valid)
        return found

    def decided(self, method: Method, remaining: int) -> bool:
        """See `decided`."""
        if remaining == 0 or self.valid == 0:
            return remaining == 0
        return all(decided(method, *part, remaining) for part in self._parts())

    def next_wave(self, method: Method, remaining: int) -> int:
        """See `next_wave`."""
        return max(next_wave(method, *part, remaining) for part in self._parts())

    def _parts(self) -> list[tuple[list[int], int]]:
        if not self.sure:
            return [(list(self.counts), self.valid)]
        rest = [count for step, count in enumerate(self.counts) if step not in self.sure]
        sure = [self.counts[step] + self.weight for step in self.sure]
        return [(rest, self.valid), (sure, self.valid + self.weight)]
