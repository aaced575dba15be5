"""The share of each step's votes as of infinitely many critiques, from token probabilities.

A bare verdict is a short list of steps, so the few that are likely can be enumerated with their
probabilities. A read is one greedy critique: its path has the probability of every token on it, and
every other likely token on the way is the start of verdicts of known total probability. The next
read continues the likeliest of those that can still change the vote. What a start settles counts at
once: in `1, 4` step 1 is wrong and step 2 is not, whatever follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from capo_service.core.criteria import CriterionCount
from capo_service.core.verdicts.list_start import ListStart
from capo_service.core.vote_rules import Method

TOLERANCE = 0.02  # of a share, where a vote is decided only by its shares
_AT_ONCE = 4  # reads
_NEGLIGIBLE = 1e-6  # starts below this probability are not kept apart
_NOISE = 1e-6  # of the sum of float32 probabilities
_LEAST_TEMPERATURE = 0.01  # at which vLLM samples; it raises lower ones to this


@dataclass(frozen=True, slots=True)
class TokenChance:
    """How critiques are sampled: the temperature, then the nucleus of `top_p`, as in vLLM."""

    temperature: float = 1.0
    top_p: float = 1.0

    def of(self, logprobs: Mapping[int, float]) -> tuple[dict[int, float], float]:
        """The probability of each token, and that of all tokens that are not given.

        Args:
            logprobs: of the most likely tokens, at temperature 1.

        Tokens that are not given are at most as likely as the least likely one that is. At
        temperatures up to 1 that bounds their probability from above, and shares keep their bounds;
        above 1 it is an estimate.
        """
        power = 1 / max(self.temperature, _LEAST_TEMPERATURE)
        likely = sorted(logprobs.items(), key=lambda each: -each[1])
        most = likely[0][1]  # all weights are relative to its own, which so cannot vanish
        weights = {token: math.exp(power * (logprob - most)) for token, logprob in likely}
        missing = 1 - math.fsum(map(math.exp, logprobs.values()))
        least = likely[-1][1]
        rest = 0.0
        if missing > _NOISE:
            rest = missing * math.exp((power - 1) * least - power * most)
        kept, before = {}, 0.0
        total = math.fsum(weights.values()) + rest
        for token, weight in weights.items():
            if before >= self.top_p * total:
                rest = 0.0
                break
            kept[token] = weight
            before += weight
        else:
            rest *= before < self.top_p * total
        total = math.fsum(kept.values()) + rest
        return {token: weight / total for token, weight in kept.items()}, rest / total


@dataclass(frozen=True, slots=True)
class ExactVotes:
    """The votes on each step.

    Attributes:
        low: the probability of the verdicts that are known to call each step wrong.
        unknown: the probability of the verdicts of which it is not known.
        verdicts: the probability of each verdict that was read.
        false_steps: steps in which the arithmetic checker found a false equation.
        weight: the share of all votes on these steps that the checker casts, against them.
        decided: whether nothing that was not read can change a penalty, by more than `TOLERANCE`
            for `average`.
    """

    low: Sequence[float]
    unknown: Sequence[float]
    verdicts: Mapping[frozenset[int], float]
    false_steps: Collection[int] = ()
    weight: float = 0.0
    decided: bool = True
    criteria: Sequence[CriterionCount] = ()  # there are no exact votes on criteria

    @property
    def n_steps(self) -> int:
        """The number of steps."""
        return len(self.low)

    @property
    def valid(self) -> int:
        """The number of verdicts that were read."""
        return len(self.verdicts)

    @property
    def shares(self) -> list[float]:
        """Of each step, the share of the votes that call it wrong, among the known ones."""
        return [
            self._with_checker(step, low / max(low, 1 - unknown) if low else 0.0)
            for step, (low, unknown) in enumerate(zip(self.low, self.unknown, strict=True))
        ]

    def on_steps(self) -> list[tuple[int, int]]:
        """For each step, how many of the verdicts that were read call it wrong, and all of them."""
        return [
            (sum(step in wrong for wrong in self.verdicts), self.valid)
            for step in range(self.n_steps)
        ]

    def penalties(self, method: Method) -> list[float]:
        """As those of `VoteCount`, for infinitely many votes.

        Raises:
            ValueError: no verdict was read.
        """
        if not self.verdicts:
            raise ValueError("no verdict was read: a vote needs at least one")
        if method == "average":
            return self.shares
        return [float(share >= 0.5) for share in self.shares]

    def _with_checker(self, step: int, share: float) -> float:
        return share + (1 - share) * self.weight if step in self.false_steps else share


@dataclass(frozen=True, slots=True, eq=False)
class Unread:
    """Verdicts that were not read, and have one start.

    Attributes:
        start: of these verdicts.
        probability: of all of them together.
        ids: the tokens of the start; None if it cannot be continued.
    """

    start: ListStart
    probability: float
    ids: tuple[int, ...] | None
    wrong: frozenset[int]
    open_from: int

    @classmethod
    def of(cls, start: ListStart, probability: float, ids: tuple[int, ...] | None) -> Unread:
        """With the steps that the start settles."""
        return cls(start, probability, ids, *start.settled())


class VerdictTree:
    """The verdicts of a judge on one rollout, as far as they were read.

    Args:
        start: the start of all of them.
        text_of: the text of a token.
        chance: how critiques are sampled.
        method: of the vote; `majority` or `average`.
        early_stop: whether a majority may be decided before its shares are known.
        false_steps: steps in which the arithmetic checker found a false equation.
        weight: the share of all votes on these steps that the checker casts.
    """

    def __init__(
        self,
        start: ListStart,
        text_of: Callable[[int], str],
        chance: TokenChance,
        method: Method = "majority",
        early_stop: bool = True,
        false_steps: Collection[int] = (),
        weight: float = 0.0,
    ) -> None:
        self._text_of = text_of
        self._chance = chance
        self._by_majority = early_stop and method == "majority"
        self._false_steps = false_steps
        self._weight = weight
        self._n_steps = start.rest.n_steps
        self._verdicts: dict[frozenset[int], float] = {}
        self._unread = [Unread.of(start, 1.0, ())]

    def votes(self) -> ExactVotes:
        """The votes as far as they are known."""
        low, unknown = self._known()
        decided = all(gap <= 0 for gap in self._gaps(low, unknown))
        false_steps, weight = self._false_steps, self._weight
        return ExactVotes(low, unknown, dict(self._verdicts), false_steps, weight, decided)

    def next_reads(self, most: int) -> list[Unread]:
        """What to read next, the likeliest first; nothing if the vote is decided, or cannot be.

        Several, where no single one could decide the vote: they can be read concurrently. A vote
        has at least one verdict, also where the checker alone decides it.
        """
        readable = sorted(
            (each for each in self._unread if each.ids is not None),
            key=lambda each: -each.probability,
        )
        chosen: list[Unread] = []
        for step, gap in enumerate(self._gaps(*self._known())):
            useful = [each for each in readable if each.open_from <= step]
            if gap <= 0 or math.fsum(each.probability for each in useful) < gap:
                continue
            gap -= math.fsum(each.probability for each in chosen if each.open_from <= step)
            for each in useful:
                if gap <= 0:
                    break
                if each not in chosen:
                    chosen.append(each)
                    gap -= each.probability
        if not chosen and not self._verdicts:
            chosen = readable[:1]
        chosen.sort(key=lambda each: -each.probability)
        return chosen[: min(most, _AT_ONCE)]

    def add(
        self, read: Unread, ids: Sequence[int], logprobs: Sequence[Mapping[int, float]]
    ) -> frozenset[int] | None:
        """Add what was read of `read`: the tokens of a greedy critique that continues it.

        Args:
            read: was returned by `next_reads`.
            ids: the tokens that the judge wrote.
            logprobs: for each of them, those of the likeliest tokens at temperature 1.

        Returns:
            The verdict; None if it was cut off.
        """
        self._unread.remove(read)
        start, mass, path = read.start, read.probability, read.ids or ()
        for token, given in zip(ids, logprobs, strict=True):
            chances, lost = self._chance.of(given)
            taken = chances.pop(token, 0.0)
            for other, chance in chances.items():
                if mass * chance < _NEGLIGIBLE or not self._branch(
                    start, mass * chance, (*path, other)
                ):
                    lost += chance
            if lost:
                self._unread.append(Unread.of(start, mass * lost, None))
            mass, path = mass * taken, (*path, token)
            try:
                start = start.then(self._text_of(token))
            except ValueError:  # not what the constraint allows
                break
            wrong, open_from = start.settled()
            if open_from == self._n_steps:
                self._found(wrong, mass)
                return wrong
        self._unread.append(Unread.of(start, mass, None))
        return None

    def give_up(self, read: Unread) -> None:
        """Never return `read` again: it could not be read."""
        self._unread.remove(read)
        self._unread.append(Unread.of(read.start, read.probability, None))

    def _branch(self, start: ListStart, mass: float, path: tuple[int, ...]) -> bool:
        """Keep what begins with a token that was not taken; whether it has the form of a list."""
        try:
            start = start.then(self._text_of(path[-1]))
        except ValueError:
            return False
        unread = Unread.of(start, mass, path)
        if unread.open_from == self._n_steps:
            self._found(unread.wrong, mass)
        else:
            self._unread.append(unread)
        return True

    def _found(self, wrong: frozenset[int], mass: float) -> None:
        self._verdicts[wrong] = self._verdicts.get(wrong, 0.0) + mass

    def _known(self) -> tuple[list[float], list[float]]:
        """The probabilities `low` and `unknown` of `ExactVotes`."""
        low, opened = [0.0] * self._n_steps, [0.0] * (self._n_steps + 1)
        parts = [(each.wrong, each.probability) for each in self._unread]
        for wrong, mass in (*self._verdicts.items(), *parts):
            for step in wrong:
                low[step] += mass
        for each in self._unread:
            opened[each.open_from] += each.probability
        return low, list(accumulate(opened))[:-1]

    def _gaps(self, low: Sequence[float], unknown: Sequence[float]) -> list[float]:
        """For each step, the probability that must be read at least before it is decided."""
        if not self._by_majority:
            return [each - TOLERANCE for each in unknown]
        gaps = []
        for step, (sure, open_) in enumerate(zip(low, unknown, strict=True)):
            weight = self._weight if step in self._false_steps else 0.0
            needed = (0.5 - weight) / (1 - weight)
            is_fixed = sure >= needed or sure + open_ < needed
            gaps.append(0.0 if is_fixed else max(min(needed - sure, sure + open_ - needed), 1e-12))
        return gaps
