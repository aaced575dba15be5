"""Policies of voting, computed from full votes: how many critiques of whom, and who decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from capo_service.core.voting import VoteCount, WrongSteps

BLOCK = 32  # tokens of a block of the prefix cache
CRITIQUES = (1, 2, 4, 8, 16)
BELOW = (0.5, 0.7, 0.8, 0.9, 0.95)  # probabilities of the likeliest verdict


@dataclass(frozen=True, slots=True)
class Recorded:
    """A critique of the full vote, with its own tokens and those of its prompt.

    `probability`: that the judge gives this verdict; known of the likeliest one only.
    """

    wrong: WrongSteps
    tokens: int
    prompt: int
    probability: float = 0.0


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
                    each.get("probability", 0.0),
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


def plain(counts: Mapping[str, int]) -> Iterator[Policy]:
    """k critiques of each source, of which so many were sampled."""
    for source, most in counts.items():
        for k in CRITIQUES:
            if k <= most:
                yield Policy(f"{source}, k = {k}", _votes(source, k), is_plain=True)


def cascades(counts: Mapping[str, int], first: str, better: str | None = None) -> Iterator[Policy]:
    """Some critiques of the first source; more, or those of a better one, where they disagree."""
    for m in (2, 3, 4):
        for margin, words in ((0.5, "disagree"), (0.2, "are near a tie")):
            if margin < 0.5 and m != 4:
                continue  # with fewer votes it is any disagreement, or only a tie
            doubt = _disagree(m, margin)
            for k in (8, 16):
                if k <= counts[first]:
                    rule = _more(first, m, k, doubt)
                    yield Policy(f"{m} votes; k = {k} if they {words}", rule, is_plain=False)
            for n in (1, 2) if better else ():
                if n > counts[str(better)]:
                    continue
                for joined in (False, True):
                    rule = _other(first, m, str(better), n, doubt, joined)
                    name = f"{m} votes; {n} of {better} if they {words}"
                    yield Policy(name + (", joined" if joined else ""), rule, is_plain=False)
    for k in (4, 8, 16):
        if k <= counts[first]:
            yield Policy(f"1 vote; k = {k} if it names a step", _more(first, 1, k, _names), False)
    if better:
        rule = _other(first, 1, better, 1, _names, False)
        yield Policy(f"1 vote; 1 of {better} if it names a step", rule, is_plain=False)


def unsure(likeliest: str, better: str) -> Iterator[Policy]:
    """The likeliest verdict; one of a better source where its probability is low."""
    for below in BELOW:
        name = f"likeliest; 1 of {better} if its probability is below {below}"
        yield Policy(name, _unsure(likeliest, better, below), is_plain=False)


def _unsure(likeliest: str, better: str, below: float) -> Rule:
    def rule(asked: Asked) -> Sequence[Recorded]:
        found = asked.take(likeliest, 0, 1)
        asked.escalated = found[0].probability < below
        return asked.take(better, 0, 1) if asked.escalated else found

    return rule


def _votes(source: str, k: int) -> Rule:
    return lambda asked: asked.vote(source, k)


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
