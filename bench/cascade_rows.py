"""F1, tokens and intervals of policies of voting on the same rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cascade_policies import Asked, Judged, Policy, Recorded

REPLICATES = 2000
LEVEL = (2.5, 97.5)  # percentiles of an interval

Counts = np.ndarray[Any, np.dtype[np.float64]]


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


def compare(
    judge: str,
    wrong: Sequence[Sequence[bool]],
    sampled: Mapping[str, Sequence[Judged]],
    policies: Sequence[Policy],
    questions: Sequence[int],
) -> list[Row]:
    """All policies on the same rollouts and orders of critiques, with bootstrap over questions.

    `questions`: that of each rollout, from 0.
    """
    found = [_Found.of(policy, wrong, sampled) for policy in policies]
    count, chance = max(questions) + 1, np.random.default_rng(0)
    weights = chance.multinomial(count, [1 / count] * count, REPLICATES)[:, list(questions)]
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
