"""What a judge's critiques are worth: pure functions of votes and labels.

A rollout is judged once, with n critiques; what fewer would have said is drawn from these. Each
figure is over rollouts and comes with a bootstrap interval over rollouts (percentile, 95%).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any, get_args

from capo_client.cli.evaluate.formats import Example
from capo_wire import VotingMethod
from capo_wire.aggregate import majority_share

METHODS: tuple[VotingMethod, ...] = get_args(VotingMethod)
_DRAWS = 8  # subsets of k critiques that a figure is the mean of
_BINS = 10

Critique = frozenset[int] | None
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Judged:
    """What was said of an example.

    Attributes:
        example: what was judged.
        critiques: the steps that each calls wrong; None for one that could not be read. Empty
            where the service answered with an error.
        greedy: the one critique at temperature 0.
        sure: steps with a false equation, where the service checks arithmetic too.
        weight: votes that each of these gets.
    """

    example: Example
    critiques: tuple[Critique, ...]
    greedy: Critique
    sure: frozenset[int] = frozenset()
    weight: int = 0


def wrong_steps(
    method: VotingMethod, critiques: Sequence[Critique], judged: Judged
) -> frozenset[int] | None:
    """The steps voted wrong (CAPO, section 3.3); None where no critique could be read."""
    valid = [critique for critique in critiques if critique is not None]
    if not valid:
        return None
    found = set()
    for step in range(len(judged.example.steps)):
        more = judged.weight if step in judged.sure else 0
        count, of = sum(step in critique for critique in valid) + more, len(valid) + more
        if method in ("majority", "average"):  # an average is wrong from 0.5 on
            needed = max(1.0, of / 2)
        else:
            needed = 1.0 if method == "union" else float(of)
        if count >= needed:
            found.add(step)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class _Row:
    """An example's part of every sum."""

    erroneous: float
    found: float  # of an erroneous one: its first error is the first step called wrong
    clean: float
    cleared: float  # of a clean one: no step is called wrong
    hit: float
    false: float
    missed: float


def _row(judged: Judged, verdicts: Sequence[frozenset[int] | None]) -> _Row:
    example, first = judged.example, judged.example.first_error
    total = [0.0] * 5
    for wrong in verdicts:
        said = min(wrong, default=None) if wrong is not None else -1
        total[0] += first is not None and said == first
        total[1] += first is None and said is None
        for step, truth in enumerate(example.wrong):
            named = wrong is not None and step in wrong
            total[2] += truth is True and named
            total[3] += truth is False and named
            total[4] += truth is True and not named
    found, cleared, hit, false, missed = (each / len(verdicts) for each in total)
    return _Row(float(first is not None), found, float(first is None), cleared, hit, false, missed)


def _figures(sums: Sequence[float]) -> dict[str, float | None]:
    erroneous, found, clean, cleared, hit, false, missed = sums
    on_wrong = found / erroneous if erroneous else None
    on_right = cleared / clean if clean else None
    precision = hit / (hit + false) if hit + false else None
    recall = hit / (hit + missed) if hit + missed else None
    return {
        "error_accuracy": on_wrong, "correct_accuracy": on_right,
        "f1": _harmonic(on_wrong, on_right), "precision": precision, "recall": recall,
        "step_f1": _harmonic(precision, recall),
    }  # fmt: skip


def _harmonic(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 2 * a * b / (a + b) if a + b else 0.0


def counts(most: int) -> list[int]:
    """The numbers of critiques that are reported: powers of two, and all."""
    return sorted({1 << i for i in range(most.bit_length()) if 1 << i <= most} | {most})


def table(judged: Sequence[Judged], most: int, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Figures by voting method and number of critiques, each with its interval.

    Args:
        judged: all examples.
        most: critiques that each was asked for.
        resamples: of the bootstrap.
        seed: of draws and resamples.
    """
    chance = random.Random(seed)  # noqa: S311  # statistics, not secrets
    weights = [_weights(len(judged), chance) for _ in range(resamples)]
    lines = []
    for method in METHODS:
        for k in [1] if method == "greedy" else counts(most):
            rows = [_row(each, _verdicts(each, method, k, chance)) for each in judged]
            columns = [[getattr(row, name) for row in rows] for name in _Row.__slots__]
            point = _figures([sum(column) for column in columns])
            drawn = [_figures([sum(map(mul, w, column)) for column in columns]) for w in weights]
            spread = {name: _interval([each[name] for each in drawn]) for name in point}
            lines.append({"method": method, "k": k, **point, "intervals": spread})
    return lines


def _verdicts(
    judged: Judged, method: VotingMethod, k: int, chance: random.Random
) -> list[frozenset[int] | None]:
    if method == "greedy":
        return [wrong_steps(method, [judged.greedy], judged)]
    critiques = judged.critiques
    if k >= len(critiques):
        return [wrong_steps(method, critiques, judged)]
    return [wrong_steps(method, chance.sample(critiques, k), judged) for _ in range(_DRAWS)]


def _weights(count: int, chance: random.Random) -> list[int]:
    drawn = [0] * count
    for index in chance.choices(range(count), k=count):
        drawn[index] += 1
    return drawn


def _interval(values: Sequence[float | None]) -> Interval | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    last = len(known) - 1
    return known[round(0.025 * last)], known[round(0.975 * last)]


def shares(judged: Sequence[Judged]) -> list[tuple[float, bool]]:
    """For each labelled step the share of critiques that call it wrong, and whether it is."""
    found = []
    for each in judged:
        valid = [critique for critique in each.critiques if critique is not None]
        for step, truth in enumerate(each.example.wrong):
            if valid and truth is not None:
                found.append((sum(step in critique for critique in valid) / len(valid), truth))
    return found


def calibration(points: Sequence[tuple[float, bool]]) -> tuple[float | None, list[dict[str, Any]]]:
    """Expected calibration error of vote shares (ten bins of equal width), and the bins."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(_BINS)]
    for share, wrong in points:
        bins[min(int(share * _BINS), _BINS - 1)].append((share, wrong))
    told, error = [], 0.0
    for number, inside in enumerate(bins):
        if not inside:
            continue
        share = sum(share for share, _ in inside) / len(inside)
        truth = sum(truth for _, truth in inside) / len(inside)
        error += len(inside) / len(points) * abs(share - truth)
        bounds = (number / _BINS, (number + 1) / _BINS)
        told.append({"bin": bounds, "steps": len(inside), "share": share, "wrong": truth})
    return (error if points else None), told


def critique_agreement(judged: Sequence[Judged]) -> float | None:
    """Mean over the steps of all examples of the share of critiques on the larger side.

    Unlike `capo_wire.aggregate.agreement` it is pooled over steps, and the votes of the symbolic
    critic are left out. None without an example that has two valid critiques.
    """
    shares = []
    for each in judged:
        valid = [critique for critique in each.critiques if critique is not None]
        if len(valid) > 1:
            for step in range(len(each.example.steps)):
                shares.append(majority_share(sum(step in c for c in valid), len(valid)))
    return sum(shares) / len(shares) if shares else None
