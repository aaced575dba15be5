"""Means with 95% intervals over seeds.

Intervals are Student's t: there are five seeds at most, with which a bootstrap's are too narrow.
Differences between two settings are paired by seed: runs of one seed see the same prompts in the
same order and start from the same sampling streams, and what they share drops out. Of settings with
fewer seeds, the deviation that is left after the means of setting and seed is pooled over all of a
question (randomised blocks): two or three seeds alone say little about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean, stdev

# Two-sided 95% quantiles of Student's t, by degrees of freedom.
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

BySeed = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95% interval; `low` and `high` are None where `seeds` are too few for one."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def scaled(self, factor: float) -> Interval:
        """In another unit; `factor` is positive."""
        low = None if self.low is None else factor * self.low
        high = None if self.high is None else factor * self.high
        return Interval(factor * self.mean, low, high, self.seeds)

    def as_dict(self, digits: int = 3) -> dict[str, float | int | None]:
        """For JSON."""
        return {k: v if v is None else round(v, digits) for k, v in asdict(self).items()}

    def level(self, digits: int = 1) -> str:
        """Such as `79.8 ± 2.3`."""
        if self.low is None:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.mean - self.low:.{digits}f}"

    def gain(self, digits: int = 1) -> str:
        """Such as `+7.0 [4.9, 9.1]`."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.{digits}f}"
        return f"{self.mean:+.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def t95(freedom: int) -> float:
    """Student's t at 97.5%; from 10 degrees of freedom on by its expansion, exact to 0.001."""
    if freedom in _T95:
        return _T95[freedom]
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))


def student(values: Sequence[float]) -> Interval:
    """The mean of independent values."""
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None, len(values))
    half = t95(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def paired(first: BySeed, second: BySeed) -> Interval | None:
    """The mean of first - second over the seeds that both have; None where no seed has both."""
    differences = [first[seed] - second[seed] for seed in sorted(first) if seed in second]
    return student(differences) if differences else None


def blocks(values: Mapping[str, BySeed], base: str) -> dict[str, Interval]:
    """Each setting's mean difference to `base`, with the deviation pooled over all settings.

    A setting's value is taken to be its mean, plus what its seed adds to every setting, plus noise
    that is equally large in all settings. Intervals are not corrected for the number of settings.

    Args:
        values: by setting and seed; all have the same seeds, two or more.
        base: the setting that others are compared with.
    """
    seeds = sorted(values[base])
    means = {name: fmean(of.values()) for name, of in values.items()}
    whole = fmean(means.values())
    shifts = {seed: fmean(of[seed] for of in values.values()) - whole for seed in seeds}
    squares = sum(
        (of[seed] - means[name] - shifts[seed]) ** 2
        for name, of in values.items()
        for seed in seeds
    )
    freedom = (len(values) - 1) * (len(seeds) - 1)
    half = t95(freedom) * math.sqrt(2 * squares / freedom / len(seeds))
    return {
        name: Interval(
            mean - means[base], mean - means[base] - half, mean - means[base] + half, len(seeds)
        )
        for name, mean in means.items()
        if name != base
    }


def part_of_the_way(value: BySeed, start: BySeed, end: BySeed) -> Interval | None:
    """(value - start) / (end - start), of the means over the seeds that all three have.

    The interval is Fieller's: the shares r for which the paired differences value - start -
    r (end - start) do not differ from 0 by Student's t. None: there is no seed, or start and end do
    not differ, so that every share is possible.
    """
    seeds = [seed for seed in sorted(value) if seed in start and seed in end]
    if not seeds:
        return None
    a = [value[seed] - start[seed] for seed in seeds]
    b = [end[seed] - start[seed] for seed in seeds]
    mean_a, mean_b, count = fmean(a), fmean(b), len(seeds)
    if mean_b == 0:
        return None
    if count < 2:
        return Interval(mean_a / mean_b, None, None, count)
    shrink = t95(count - 1) ** 2 / count
    square = mean_b**2 - shrink * _covariance(b, b)
    linear = mean_a * mean_b - shrink * _covariance(a, b)
    constant = mean_a**2 - shrink * _covariance(a, a)
    if square <= 0:
        return None
    root = math.sqrt(max(linear**2 - square * constant, 0.0))
    return Interval(mean_a / mean_b, (linear - root) / square, (linear + root) / square, count)


def quantiles(
    values: Sequence[float], low: float = 0.025, high: float = 0.975
) -> tuple[float, float]:
    """Two quantiles of a sample, each the nearest value; infinite values are allowed."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(low * last)], ordered[round(high * last)]


def _covariance(first: Sequence[float], second: Sequence[float]) -> float:
    mean_first, mean_second = fmean(first), fmean(second)
    pairs = zip(first, second, strict=True)
    return sum((x - mean_first) * (y - mean_second) for x, y in pairs) / (len(first) - 1)
