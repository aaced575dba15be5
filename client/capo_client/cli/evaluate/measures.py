"""Accuracy of a judge: pure functions of its votes and the labels.

Each rollout is judged once, with n critiques; votes of fewer critiques are sampled from these.
Every figure is over rollouts and has a 95% bootstrap interval over rollouts (percentile method).

The bootstrap is plain Python, as the client does not depend on numpy: 1,000 resamples of 1,000
rollouts take 5 s for all 21 rows of the table, a small part of the time that judging takes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any, get_args

from capo_client.cli.evaluate.examples import LabelledExample
from capo_wire import VotingMethod
from capo_wire.aggregate import majority_share

METHODS: tuple[VotingMethod, ...] = get_args(VotingMethod)
_DRAWS = 8  # subsets of k critiques that a figure is averaged over
_BINS = 10

# The steps that a critique calls wrong; None for an invalid critique.
JudgeCritique = frozenset[int] | None
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class JudgedExample:
    """An example with its critiques.

    Attributes:
        example: the labelled solution.
        critiques: those of the judge; empty if the service returned an error.
        greedy: the critique at temperature 0.
        sure: steps with a false equation, if the service checks arithmetic too.
        weight: votes against each of these steps.
    """

    example: LabelledExample
    critiques: tuple[JudgeCritique, ...]
    greedy: JudgeCritique
    sure: frozenset[int] = frozenset()
    weight: int = 0


def wrong_steps(
    method: VotingMethod, critiques: Sequence[JudgeCritique], judged: JudgedExample
) -> frozenset[int] | None:
    """The steps voted wrong (CAPO, section 3.3); None without a valid critique."""
    valid = [critique for critique in critiques if critique is not None]
    if not valid:
        return None
    wrong = set()
    for step in range(len(judged.example.steps)):
        extra = judged.weight if step in judged.sure else 0
        votes, total = sum(step in critique for critique in valid) + extra, len(valid) + extra
        if method in ("majority", "average"):  # an average counts as wrong from 0.5 on
            needed = max(1.0, total / 2)
        else:
            needed = 1.0 if method == "union" else float(total)
        if votes >= needed:
            wrong.add(step)
    return frozenset(wrong)


@dataclass(frozen=True, slots=True)
class _Row:
    """What an example adds to each sum; fractions are means over draws."""

    erroneous: float  # 1 for a solution with an error
    found: float  # the first step called wrong is its first error
    clean: float  # 1 for a solution without an error
    cleared: float  # no step is called wrong
    hit: float  # wrong steps that are called wrong
    false: float  # right steps that are called wrong
    missed: float  # wrong steps that are not called wrong


def _row(judged: JudgedExample, verdicts: Sequence[frozenset[int] | None]) -> _Row:
    example, first = judged.example, judged.example.first_error
    total = [0.0] * 5
    for wrong in verdicts:
        predicted = min(wrong, default=None) if wrong is not None else -1
        total[0] += first is not None and predicted == first
        total[1] += first is None and predicted is None
        for step, truth in enumerate(example.wrong):
            is_flagged = wrong is not None and step in wrong
            total[2] += truth is True and is_flagged
            total[3] += truth is False and is_flagged
            total[4] += truth is True and not is_flagged
    found, cleared, hit, false, missed = (value / len(verdicts) for value in total)
    return _Row(float(first is not None), found, float(first is None), cleared, hit, false, missed)


def _figures(sums: Sequence[float]) -> dict[str, float | None]:
    erroneous, found, clean, cleared, hit, false, missed = sums
    on_wrong = found / erroneous if erroneous else None
    on_right = cleared / clean if clean else None
    precision = hit / (hit + false) if hit + false else None
    recall = hit / (hit + missed) if hit + missed else None
    return {
        "error_accuracy": on_wrong,
        "correct_accuracy": on_right,
        "f1": _harmonic(on_wrong, on_right),
        "precision": precision,
        "recall": recall,
        "step_f1": _harmonic(precision, recall),
    }


def _harmonic(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 2 * a * b / (a + b) if a + b else 0.0


def counts(critiques: int) -> list[int]:
    """The values of k that are reported: powers of two, and all critiques."""
    powers = {1 << i for i in range(critiques.bit_length())}
    return sorted(powers | {critiques})


def table(
    judged: Sequence[JudgedExample], critiques: int, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Figures by voting method and number of critiques, each with its interval.

    Args:
        judged: all examples.
        critiques: how many each example was given.
        resamples: those of the bootstrap.
        seed: that of draws and resamples.
    """
    chance = random.Random(seed)  # noqa: S311  # statistics, not secrets
    weights = [_weights(len(judged), chance) for _ in range(resamples)]
    lines = []
    for method in METHODS:
        for k in [1] if method == "greedy" else counts(critiques):
            rows = [_row(example, _verdicts(example, method, k, chance)) for example in judged]
            lines.append({"method": method, "k": k, **_with_intervals(rows, weights)})
    return lines


def exact_line(
    judged: Sequence[JudgedExample],
    wrong: Sequence[frozenset[int] | None],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Figures of an exact majority, as a line of `table`.

    Args:
        judged: all examples.
        wrong: for each of them, the steps voted wrong; None if the service returned an error.
        resamples: those of the bootstrap.
        seed: that of the resamples.
    """
    chance = random.Random(seed)  # noqa: S311  # statistics, not secrets
    weights = [_weights(len(judged), chance) for _ in range(resamples)]
    rows = [_row(example, [steps]) for example, steps in zip(judged, wrong, strict=True)]
    return {"method": "majority", "k": "exact", **_with_intervals(rows, weights)}


def _with_intervals(rows: Sequence[_Row], weights: Sequence[Sequence[int]]) -> dict[str, Any]:
    columns = [[getattr(row, name) for row in rows] for name in _Row.__slots__]
    point = _figures([sum(column) for column in columns])
    resampled = [
        _figures([sum(map(mul, row_weights, column)) for column in columns])
        for row_weights in weights
    ]
    intervals = {name: _interval([line[name] for line in resampled]) for name in point}
    return {**point, "intervals": intervals}


def _verdicts(
    judged: JudgedExample, method: VotingMethod, k: int, chance: random.Random
) -> list[frozenset[int] | None]:
    if method == "greedy":
        return [wrong_steps(method, [judged.greedy], judged)]
    critiques = judged.critiques
    if k >= len(critiques):
        return [wrong_steps(method, critiques, judged)]
    return [wrong_steps(method, chance.sample(critiques, k), judged) for _ in range(_DRAWS)]


def _weights(count: int, chance: random.Random) -> list[int]:
    """How often each of `count` rows is in one bootstrap resample."""
    weights = [0] * count
    for index in chance.choices(range(count), k=count):
        weights[index] += 1
    return weights


def _interval(values: Sequence[float | None]) -> Interval | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    last = len(known) - 1
    return known[round(0.025 * last)], known[round(0.975 * last)]


def shares(judged: Sequence[JudgedExample]) -> list[tuple[float, bool]]:
    """For each labelled step, the share of critiques that call it wrong, and whether it is."""
    points = []
    for each in judged:
        valid = [critique for critique in each.critiques if critique is not None]
        for step, truth in enumerate(each.example.wrong):
            if valid and truth is not None:
                points.append((sum(step in critique for critique in valid) / len(valid), truth))
    return points


def calibration(points: Sequence[tuple[float, bool]]) -> tuple[float | None, list[dict[str, Any]]]:
    """Expected calibration error of vote shares (ten bins of equal width), and the bins."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(_BINS)]
    for share, wrong in points:
        bins[min(int(share * _BINS), _BINS - 1)].append((share, wrong))
    lines, error = [], 0.0
    for number, inside in enumerate(bins):
        if not inside:
            continue
        share = sum(share for share, _ in inside) / len(inside)
        truth = sum(truth for _, truth in inside) / len(inside)
        error += len(inside) / len(points) * abs(share - truth)
        bounds = (number / _BINS, (number + 1) / _BINS)
        lines.append({"bin": bounds, "steps": len(inside), "share": share, "wrong": truth})
    return (error if points else None), lines


def critique_agreement(judged: Sequence[JudgedExample]) -> float | None:
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
