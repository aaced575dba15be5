"""Figures of single questions: equal compute, votes, and errors of the judge."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from capo_testbed.experiment.collect import ACCURACY, Results
from capo_testbed.experiment.equal_compute import (
    FAMILIES,
    SIZES,
    family,
    gain_at,
    mean_flops,
)
from capo_testbed.experiment.exact_votes import voted
from capo_testbed.experiment.grids import ARMS
from capo_testbed.experiment.intervals import Interval, student
from capo_testbed.experiment.plotting import (
    COLOURS,
    MARKERS,
    error_bars,
    new_figure,
    plain_log,
    saved,
)
from capo_testbed.experiment.questions import CRITIQUES, F1S, METHODS, RATES, Question, errors_name
from capo_testbed.experiment.tables import gains_of
from capo_testbed.simulated import Rates
from capo_wire import VotingMethod

_TERA = 1e12
_BLACK, _BLUE, _RED = COLOURS[:3]
_KS = (1, *CRITIQUES)


def compute_figure(question: Question, results: Results, folder: Path) -> bool:
    """Accuracy over FLOPs and over seconds, and the gain over the judge's size."""
    if len(results.shapes) < 2 or not any(family(results, name) for name in FAMILIES):
        return False
    figure, axes = new_figure(1, 3, height=3.6)
    over_flops, over_seconds, over_size = axes[0]
    for name, colour, marker in zip(FAMILIES, (_BLACK, _BLUE), MARKERS, strict=False):
        names = family(results, name)
        flops = [mean_flops(results, each).total / _TERA for each in names]
        _levels(over_flops, results, names, flops, colour, marker, f"GRPO, more {name}")
        seconds = [_seconds(results, each) for each in names]
        _levels(over_seconds, results, names, seconds, colour, marker, f"GRPO, more {name}")
    for arm, colour, marker in zip(ARMS, (_RED, COLOURS[3]), MARKERS[2:], strict=False):
        if arm not in results.settings:
            continue
        _levels(over_seconds, results, [arm], [_seconds(results, arm)], colour, marker, arm)
        sizes = SIZES if arm == ARMS[0] else (None,)
        flops = [mean_flops(results, arm, size).total / _TERA for size in sizes]
        _levels(over_flops, results, [arm] * len(sizes), flops, colour, marker, arm)
        for x, size in zip(flops, SIZES if arm == ARMS[0] else (), strict=False):
            place = x, _accuracy(results, arm).mean
            over_flops.annotate(f"{size:.0f}x", place, (4, 4), textcoords="offset points")
    _gains_over_size(over_size, results)
    over_flops.set_xlabel(f"FLOPs of a run, 10$^{{12}}$\n({ARMS[0]}: by the judge's size)")
    over_seconds.set_xlabel("seconds of training\n(two runs at a time on a shared machine)")
    for axis in (over_flops, over_seconds):
        plain_log(axis)
        axis.set_ylabel("right answers, %")
        axis.legend(fontsize=7, frameon=False, loc="lower right")
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    saved(figure, folder / f"{question.name}.png")
    return True


def _accuracy(results: Results, name: str) -> Interval:
    return student([100 * v for v in results.settings[name].final(ACCURACY).values()])


def _seconds(results: Results, name: str) -> float:
    return student(results.settings[name].totals["step_seconds"]).mean


def _levels(
    axis: Any,
    results: Results,
    names: list[str],
    at: list[float],
    colour: str,
    marker: str,
    label: str,
) -> None:
    if not names:
        return
    found = [_accuracy(results, name) for name in names]
    order = sorted(range(len(names)), key=lambda i: at[i])
    axis.errorbar(
        [at[i] for i in order],
        [found[i].mean for i in order],
        error_bars([found[i] for i in order]),
        color=colour,
        marker=marker,
        markersize=5,
        capsize=2,
        label=label,
    )


def _gains_over_size(axis: Any, results: Results) -> None:
    """Of the arm with one critique: the interval is paired by seed."""
    grid = [10 ** (number / 12) for number in range(-6, 25)]
    for name, colour, style in zip(FAMILIES, (_BLACK, _BLUE), ("-", "--"), strict=True):
        found = [(size, gain_at(results, ARMS[0], name, size)) for size in grid]
        points = [(size, each) for size, each in found if each is not None]
        if not points:
            continue
        sizes = [size for size, _ in points]
        axis.plot(sizes, [each.mean for _, each in points], style, color=colour)
        if all(each.low is not None for _, each in points):
            lows, highs = ([getattr(e, end) for _, e in points] for end in ("low", "high"))
            axis.fill_between(sizes, lows, highs, color=colour, alpha=0.12, linewidth=0)
        axis.plot([], [], style, color=colour, label=f"against more {name}")
    axis.axhline(0, color="grey", linewidth=1)
    plain_log(axis)
    axis.set_xlabel("judge's size, times the policy's parameters")
    axis.set_ylabel(f"{ARMS[0]} over GRPO at equal FLOPs, points")
    axis.legend(fontsize=7, frameon=False)


def votes_figure(question: Question, results: Results, folder: Path) -> bool:
    """By the judge's F1: exact precision and recall of each vote, and the gain in training."""
    gains = gains_of(question, results.settings)
    if not any(name.startswith("votes-") for name in gains):
        return False
    figure, axes = new_figure(3, len(F1S), height=7.2, sharex=True, sharey="row")
    for column, f1 in enumerate(F1S):
        precision, recall, gained = (axes[row][column] for row in range(3))
        _exact(precision, recall, f1)
        _trained(gained, gains, f1)
        precision.set_title(f"step F1 of one critique: {f1:g}")
        gained.set_xscale("log", base=2)
        gained.set_xticks(_KS, [str(k) for k in _KS])
        gained.set_xlabel("critiques k")
        gained.axhline(0, color="grey", linewidth=1)
        for axis in (precision, recall, gained):
            axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("precision of the vote (exact)")
    axes[1][0].set_ylabel("recall of the vote (exact)")
    axes[2][0].set_ylabel("right answers over GRPO, points")
    for row in (0, 2):
        axes[row][0].legend(fontsize=7, frameon=False)
    saved(figure, folder / f"{question.name}.png")
    return True


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4}


def _exact(precision: Any, recall: Any, f1: float) -> None:
    rates = Rates(precision=f1, recall=f1)
    for number, method in enumerate(METHODS):
        found = [voted(rates, cast(VotingMethod, method), k) for k in _KS]
        precision.plot(_KS, [each.precision for each in found], label=method, **_style(number))
        recall.plot(_KS, [each.recall for each in found], **_style(number))


def _trained(axis: Any, gains: Mapping[str, Interval], f1: float) -> None:
    """Gains over k; the point at k = 1 belongs to all votes."""
    prefix = f"votes-f{int(100 * f1)}"
    one = gains.get(f"{prefix}-one")
    for number, method in enumerate(METHODS):
        found = [(k, gains.get(f"{prefix}-{method}-{k}")) for k in CRITIQUES]
        # Side by side, or intervals would hide each other.
        points = [(k * 1.05 ** (number - 1.5), each) for k, each in found if each]
        if one and points:
            axis.plot([1, points[0][0]], [one.mean, points[0][1].mean], color=COLOURS[number])
        _bars(axis, points, **_style(number))
    if one:
        _bars(axis, [(1, one)], color="black", marker="o", markersize=4, label="one critique")
    systematic = gains.get(f"{prefix}-systematic")
    if systematic:
        style = {"color": COLOURS[4], "marker": "v", "markersize": 4}
        _bars(axis, [(0.9, systematic)], label="that errs the same way every time", **style)


def _bars(axis: Any, points: list[tuple[float, Interval]], **style: Any) -> None:
    if points:
        means, bars = [each.mean for _, each in points], error_bars([each for _, each in points])
        axis.errorbar([x for x, _ in points], means, bars, capsize=2, linewidth=1.2, **style)


def errors_figure(question: Question, results: Results, folder: Path) -> bool:
    """The map of gain over precision and recall, with the real judges as points."""
    gains = gains_of(question, results.settings)
    cells = [[gains.get(errors_name(p, r)) for r in RATES] for p in RATES]
    means = [[float("nan") if each is None else each.mean for each in row] for row in cells]
    if not any(each for row in cells for each in row):
        return False
    figure, axes = new_figure(1, 2, height=4.2, widths=(1.35, 1))
    edges = [RATES[0] - (RATES[1] - RATES[0]) / 2]
    edges += [(a + b) / 2 for a, b in pairwise(RATES)]
    edges.append(RATES[-1] + (RATES[-1] - RATES[-2]) / 2)
    _map(figure, axes[0][0], edges, means)
    for number, judge in enumerate(results.judges):
        axes[0][0].plot(
            judge["recall"],
            judge["precision"],
            marker=MARKERS[number % len(MARKERS)],
            color="white",
            markeredgecolor="black",
            markersize=8,
            linestyle="none",
            label=judge["judge"],
        )
    if results.judges:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 3}
        axes[0][0].legend(fontsize=7, frameon=False, **below)
    axis = axes[0][1]
    for number, row in enumerate(cells):
        found = [(r + 0.014 * (number - 2), e) for r, e in zip(RATES, row, strict=True) if e]
        _bars(axis, found, label=f"precision {RATES[number]:g}", **_style(number))
    axis.axhline(0, color="grey", linewidth=1)
    axis.set_xlabel("recall of the judge")
    axis.set_ylabel("right answers over GRPO, points")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, frameon=False)
    saved(figure, folder / f"{question.name}.png")
    return True


def _map(figure: Any, axis: Any, edges: list[float], means: list[list[float]]) -> None:
    known = [abs(mean) for row in means for mean in row if mean == mean]
    largest = max(known) or 1.0
    mesh = axis.pcolormesh(edges, edges, means, cmap="PuOr_r", vmin=-largest, vmax=largest)
    for precision, row in zip(RATES, means, strict=True):
        for recall, mean in zip(RATES, row, strict=True):
            if mean == mean:
                dark = abs(mean) > 0.7 * largest
                colour = "white" if dark else "black"
                axis.text(recall, precision, f"{mean:+.1f}", ha="center", va="center", color=colour)
    axis.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    axis.set_yticks(RATES, [f"{rate:g}" for rate in RATES])
    axis.set_xlabel("recall of the judge")
    axis.set_ylabel("precision of the judge")
    figure.colorbar(mesh, ax=axis)
    axis.set_title("right answers over GRPO, points", fontsize=8)
