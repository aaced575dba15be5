"""Policies of voting, computed from full votes: how many critiques of whom, and who decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from capo_service.core.voting import VoteCount, WrongSteps

BLOCK = 32  # tokens of a block of the prefix cache
REPLICATES = 2000
CRITIQUES = (1, 2, 4, 8, 16)
LEVEL = (2.5, 97.5)  # percentiles of an interval

Counts = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A critique of the full vote, with its own tokens and those of its prompt."""

    wrong: WrongSteps
    tokens: int
    prompt: int


@dataclass(frozen=True, slots=True)
class Judged:
    """All critiques of a rollout by one judge with one thinking budget."""

    critiques: Sequence[Recorded]

    @classmethod
    def of(cls, given: Sequence[Mapping[str, Any]]) -> Judged:
        return cls(
            [
                Recorded(
                    None if each["wrong"] is None else frozenset(each["wrong"]),
                    each["tokens"],
                    each["prompt"],
                )
                for each in given
            ]
        )

    def rotated(self, turn: int) -> list[Recorded]:
        """The critiques in another order."""
        first = turn % len(self.critiques)
        return [*self.critiques[first:], *self.critiques[:first]]


@dataclass(slots=True)
class Asked:
    """Critiques as a policy asks for them, and what they cost.

    `sources`: "JUDGE@BUDGET" -> critiques. `tokens`: sampled. `prompt`: prompt tokens that are not
    in the prefix cache. `steps`: decode steps, where all critiques that run sample one token each.
    """

    sources: Mapping[str, list[Recorded]]
    n_steps: int
    tokens: int = 0
    prompt: int = 0
    steps: int = 0
    escalated: bool = False
    _read: set[str] = field(default_factory=set)

    def take(self, source: str, first: int, count: int) -> list[Recorded]:
        """Some critiques, sampled at the same time."""
        wave = self.sources[source][first : first + count]
        judge = source.partition("@")[0]
        for each in wave:
            cached = (each.prompt - 1) // BLOCK * BLOCK if judge in self._read else 0
            self.prompt += each.prompt - cached
            self._read.add(judge)
        self.tokens += sum(each.tokens for each in wave)
        self.steps += max(each.tokens for each in wave)
        return wave

    def vote(self, source: str, k: int, cast: Sequence[Recorded] = ()) -> list[Recorded]:
        """A majority of k with early stopping, in waves; `cast` were taken before."""
        done = list(cast)
        while True:
            votes, remaining = self.count(done), k - len(done)
            if votes.decided("majority", remaining):
                return done
            size = votes.next_wave("majority", remaining)
            done += self.take(source, len(done), size)

    def count(self, critiques: Sequence[Recorded]) -> VoteCount:
        return VoteCount.of([each.wrong for each in critiques], self.n_steps)


# Returns the critiques whose majority decides.
Rule = Callable[[Asked], Sequence[Recorded]]


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    rule: Rule
    is_plain: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A policy on all rollouts; means of a rollout.

    `against`: of the policies without a cascade that are no worse, the one with the fewest tokens.
    `difference`: interval of the difference of their F1, paired by rollout. `wins`: at most half of
    its tokens, or of its steps.
    """

    judge: str
    policy: str
    f1: float
    f1_interval: tuple[float, float]
    tokens: float
    prompt: float
    steps: float
    escalated: float
    against: str | None = None
    against_tokens: float = 0.0
    against_steps: float = 0.0
    difference: tuple[float, float] = (0.0, 0.0)
    wins: bool = False


def plain(first: str, better: str | None = None) -> Iterator[Policy]:
    """k critiques of each source."""
    for source in (first, better) if better else (first,):
        for k in CRITIQUES:
            yield Policy(f"{source}, k = {k}", _votes(source, k), is_plain=True)


def cascades(first: str, better: str | None = None) -> Iterator[Policy]:
    """Some critiques of the first source; of the same or the better one where they disagree."""
    for m in (2, 3, 4):
        for margin, words in ((0.5, "disagree"), (0.2, "are near a tie")):
            doubt = _disagree(m, margin)
            if margin < 0.5 and m != 4:
                continue  # with fewer votes it is any disagreement, or only a tie
            for k in (8, 16):
                rule = _more(first, m, k, doubt)
                yield Policy(f"{m} votes; k = {k} if they {words}", rule, is_plain=False)
            for n in (1, 2) if better else ():
                for joined in (False, True):
                    rule = _other(first, m, str(better), n, doubt, joined)
                    name = f"{m} votes; {n} of {better} if they {words}"
                    yield Policy(name + (", joined" if joined else ""), rule, is_plain=False)
    for k in (4, 8, 16):
        yield Policy(f"1 vote; k = {k} if it names a step", _more(first, 1, k, _names), False)
    if better:
        rule = _other(first, 1, better, 1, _names, False)
        yield Policy(f"1 vote; 1 of {better} if it names a step", rule, is_plain=False)


def _votes(source: str, k: int) -> Rule:
    return lambda asked: asked.vote(source, min(k, len(asked.sources[source])))


Doubt = Callable[[VoteCount], bool]


def _disagree(m: int, margin: float) -> Doubt:
    """Whether any step's share of votes is within the margin of a tie."""

    def doubt(votes: VoteCount) -> bool:
        return any(abs(count / m - 0.5) < margin for count in votes.counts)

    return doubt


def _names(votes: VoteCount) -> bool:
    return any(votes.counts)


def _more(source: str, m: int, k: int, doubt: Doubt) -> Rule:
    def rule(asked: Asked) -> Sequence[Recorded]:
        cast = asked.take(source, 0, m)
        asked.escalated = doubt(asked.count(cast))
        return asked.vote(source, k, cast) if asked.escalated else cast

    return rule


def _other(source: str, m: int, better: str, n: int, doubt: Doubt, joined: bool) -> Rule:
    def rule(asked: Asked) -> Sequence[Recorded]:
        cast = asked.take(source, 0, m)
        asked.escalated = doubt(asked.count(cast))
        if not asked.escalated:
            return cast
        further = asked.take(better, 0, n)
        return [*cast, *further] if joined else further

    return rule


def compare(
    judge: str,
    wrong: Sequence[Sequence[bool]],
    sampled: Mapping[str, Sequence[Judged]],
    policies: Sequence[Policy],
) -> list[Row]:
    """All policies on the same rollouts and orders of critiques, with bootstrap over rollouts."""
    found = [_Found.of(policy, wrong, sampled) for policy in policies]
    chance = np.random.default_rng(0)
    weights = chance.multinomial(len(wrong), [1 / len(wrong)] * len(wrong), REPLICATES)
    scores = [each.f1(weights.astype(float)) for each in found]
    rows = []
    for each, score in zip(found, scores, strict=True):
        row = each.row(judge, score)
        if not each.policy.is_plain:
            row = _against(row, score, list(zip(found, scores, strict=True)))
        rows.append(row)
    return rows


def _against(row: Row, score: Counts, others: Sequence[tuple[_Found, Counts]]) -> Row:
    def differences(other: Counts) -> tuple[float, float]:
        low, high = np.percentile(score - other, LEVEL)
        return float(low), float(high)

    known = [each for each in others if each[0].policy.is_plain]
    # No worse than the cascade; if all are worse, the best of them.
    equal = [each for each in known if differences(each[1])[0] <= 0]
    equal = equal or [max(known, key=lambda each: float(each[1].mean()))]
    other, its = min(equal, key=lambda each: each[0].mean("tokens"))
    difference = differences(its)
    cheap = min(row.tokens / other.mean("tokens"), row.steps / other.mean("steps")) <= 0.5
    return Row(
        **{name: getattr(row, name) for name in ("judge", "policy", "f1", "f1_interval")},
        **{name: getattr(row, name) for name in ("tokens", "prompt", "steps", "escalated")},
        against=other.policy.name,
        against_tokens=other.mean("tokens"),
        against_steps=other.mean("steps"),
        difference=difference,
        wins=cheap and difference[1] >= 0,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """Per rollout, summed over all orders of its critiques."""

    policy: Policy
    orders: int
    sums: Mapping[str, Counts]

    @classmethod
    def of(
        cls,
        policy: Policy,
        wrong: Sequence[Sequence[bool]],
        sampled: Mapping[str, Sequence[Judged]],
    ) -> _Found:
        orders = max(len(given[0].critiques) for given in sampled.values())
        names = ("hits", "named", "actual", "tokens", "prompt", "steps", "escalated")
        sums = {name: np.zeros(len(wrong)) for name in names}
        for row, truth in enumerate(wrong):
            actual = {step for step, is_wrong in enumerate(truth) if is_wrong}
            for turn in range(orders):
                sources = {name: given[row].rotated(turn) for name, given in sampled.items()}
                asked = Asked(sources, len(truth))
                named = _majority(asked, policy.rule(asked))
                sums["hits"][row] += len(named & actual)
                sums["named"][row] += len(named)
                sums["actual"][row] += len(actual)
                for name in ("tokens", "prompt", "steps", "escalated"):
                    sums[name][row] += getattr(asked, name)
        return cls(policy, orders, sums)

    def f1(self, weights: Counts) -> Counts:
        hits, named, actual = (weights @ self.sums[n] for n in ("hits", "named", "actual"))
        return np.asarray(2 * hits / np.maximum(named + actual, 1))

    def mean(self, name: str) -> float:
        return float(self.sums[name].mean() / self.orders)

    def row(self, judge: str, score: Counts) -> Row:
        low, high = np.percentile(score, LEVEL)
        means = {name: self.mean(name) for name in ("tokens", "prompt", "steps", "escalated")}
        f1 = float(self.f1(np.ones((1, len(self.sums["hits"]))))[0])
        return Row(judge, self.policy.name, f1, (float(low), float(high)), **means)


def _majority(asked: Asked, critiques: Sequence[Recorded]) -> set[int]:
    votes = asked.count(critiques)
    if not votes.valid:
        return set()
    return {step for step, share in enumerate(votes.penalties("majority")) if share}
