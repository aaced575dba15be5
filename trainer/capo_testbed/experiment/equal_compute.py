"""The gain at equal compute: an arm with a judge, against GRPO that is given the judge's FLOPs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from capo_testbed.experiment.collect import ACCURACY, Results
from capo_testbed.experiment.compute import Flops, run_flops
from capo_testbed.experiment.intervals import Interval, quantiles, student

SIZES = (1.0, 8.0, 72.0)
# GRPO with more steps, or with more rollouts of each question.
FAMILIES = ("steps", "rollouts")
# GRPO's curve is continued this far beyond its points, with the slope of the last two.
_BEYOND = 1.25
_RESAMPLES = 1000
# Judge's sizes that are looked at, from the smallest to the largest, on a logarithmic scale.
_LOOKED_AT = [0.01 * 10 ** (number / 16) for number in range(81)]

Point = tuple[float, float]  # FLOPs, accuracy


def judge_size(results: Results) -> float:
    """Parameters of the testbed's judge, as a multiple of the policy's."""
    return results.shapes["judge"].parameters / results.shapes["policy"].parameters


def flops_of(results: Results, setting: str, seed: int, size: float | None = None) -> Flops:
    """FLOPs of one run.

    Args:
        results: all.
        setting: its name.
        seed: of the run.
        size: parameters of the judge as a multiple of the policy's; None: the testbed's judge as it
            is. A multiple of the policy's own cost, with the same tokens: by arithmetic alone.
    """
    policy = results.shapes["policy"].cost
    judge = results.shapes["judge"].cost if size is None else policy.scaled(size)
    return run_flops(results.settings[setting].of_seed(seed), policy, judge)


def mean_flops(results: Results, setting: str, size: float | None = None) -> Flops:
    """Means over the setting's seeds."""
    runs = [flops_of(results, setting, s, size) for s in results.settings[setting].seeds]
    return Flops(*(fmean(getattr(run, part) for run in runs) for part in Flops.__slots__))


def family(results: Results, name: str) -> list[str]:
    """GRPO's settings of one family that have runs, `grpo` first."""
    found = [s for s in results.settings if s == "grpo" or s.startswith(f"grpo-{name}-")]
    return found if "grpo" in found and len(found) > 1 else []


def interpolated(points: Sequence[Point], flops: float) -> float | None:
    """Accuracy at some FLOPs, linear in their logarithm; None: too far outside of the points."""
    if len(points) < 2:
        return None
    ordered = sorted(points)
    if not ordered[0][0] / _BEYOND <= flops <= ordered[-1][0] * _BEYOND:
        return None
    at = 1
    while at < len(ordered) - 1 and flops > ordered[at][0]:
        at += 1
    (x0, y0), (x1, y1) = ordered[at - 1], ordered[at]
    if x1 == x0:
        return y1
    return y0 + (y1 - y0) * math.log(flops / x0) / math.log(x1 / x0)


def shared_seeds(results: Results, names: Sequence[str]) -> list[int]:
    """Seeds that all of the settings have."""
    if any(name not in results.settings for name in names):
        return []
    return sorted(set.intersection(*(set(results.settings[name].seeds) for name in names)))


def gain_at(results: Results, arm: str, name: str, size: float | None) -> Interval | None:
    """Points of accuracy of `arm` over GRPO's at the same FLOPs, paired by seed.

    For each seed GRPO's accuracy is interpolated between its own runs of that seed.

    Args:
        results: all.
        arm: the setting with a judge.
        name: the family of GRPO's settings.
        size: of the judge, as in `flops_of`.
    """
    names = family(results, name)
    seeds = shared_seeds(results, [arm, *names]) if names else []
    gains = []
    for seed in seeds:
        other = interpolated(
            _curve(results, names, [seed]), flops_of(results, arm, seed, size).total
        )
        if other is None:
            return None
        gains.append(results.settings[arm].final(ACCURACY)[seed] - other)
    return student(gains).scaled(100) if gains else None


@dataclass(frozen=True, slots=True)
class Vanishing:
    """The judge's size at which an arm's gain is gone, as a multiple of the policy's.

    `size`, `low` and `high` are infinite where GRPO's curve ends before, at `largest`.
    """

    size: float
    low: float
    high: float
    largest: float


def vanishing_size(results: Results, arm: str, name: str) -> Vanishing | None:
    """Where GRPO, given the judge's FLOPs, is as good as `arm`; None: runs are missing.

    The interval is a percentile bootstrap over seeds, the same ones for the arm and for GRPO. With
    five seeds it is too narrow; it shows the order of magnitude.
    """
    names = family(results, name)
    seeds = shared_seeds(results, [arm, *names]) if names else []
    if not seeds or not results.settings[arm].judge_tokens_per_token:
        return None
    curves = {seed: _curve(results, names, [seed]) for seed in seeds}
    spent = {
        seed: [flops_of(results, arm, seed, size).total for size in _LOOKED_AT] for seed in seeds
    }
    reached = results.settings[arm].final(ACCURACY)

    def crossing(chosen: Sequence[int]) -> tuple[float, float]:
        points = [
            (fmean(x for x, _ in at), fmean(y for _, y in at))
            for at in zip(*(curves[seed] for seed in chosen), strict=True)
        ]
        flops = [fmean(at) for at in zip(*(spent[seed] for seed in chosen), strict=True)]
        return _crossing(points, flops, fmean(reached[seed] for seed in chosen))

    rng = random.Random(f"{arm} {name}")  # noqa: S311  # a bootstrap, not a secret
    size, largest = crossing(seeds)
    drawn = [crossing(rng.choices(seeds, k=len(seeds)))[0] for _ in range(_RESAMPLES)]
    return Vanishing(size, *quantiles(drawn), largest)


def _curve(results: Results, names: Sequence[str], seeds: Sequence[int]) -> list[Point]:
    """GRPO's FLOPs and final accuracy, means over seeds."""
    return [
        (
            fmean(flops_of(results, name, seed).total for seed in seeds),
            fmean(results.settings[name].final(ACCURACY)[seed] for seed in seeds),
        )
        for name in names
    ]


def _crossing(
    points: Sequence[Point], flops: Sequence[float], accuracy: float
) -> tuple[float, float]:
    """The smallest size at which the gain is gone, and the largest that GRPO's curve reaches.

    Args:
        points: GRPO's curve.
        flops: of the arm, for each size that is looked at.
        accuracy: of the arm.
    """
    before: Point | None = None
    for size, spent in zip(_LOOKED_AT, flops, strict=True):
        other = interpolated(points, spent)
        if other is None:
            break
        gain = accuracy - other
        if gain <= 0:
            if before is None:
                return size, size
            share = before[1] / (before[1] - gain)
            return before[0] * (size / before[0]) ** share, size
        before = size, gain
    return math.inf, before[0] if before else _LOOKED_AT[0]
