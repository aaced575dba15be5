"""What the figures share: size, colours, markers, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capo_testbed.experiment.intervals import Interval

# Okabe and Ito's, with grey for yellow, which is too light on white.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_WIDTH = 9.0  # inches; the page shows it at about this size


def new_figure(
    rows: int, columns: int, height: float, widths: Sequence[float] | None = None, **options: Any
) -> tuple[Any, Any]:
    """A figure of the page's width, and its axes by row and column."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(_WIDTH, height),
        squeeze=False,
        constrained_layout=True,
        gridspec_kw={"width_ratios": widths or [1] * columns},
        **options,
    )
    return figure, axes


def saved(figure: Any, path: Path) -> None:
    """Write a figure. Without a date, so that the same results give the same file."""
    from matplotlib import pyplot

    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def interval_line(axis: Any, found: Interval, at: float, number: int | None) -> None:
    """A mean with its interval, from left to right.

    Args:
        axis: where it is drawn.
        found: what is drawn.
        at: its height.
        number: of the colour and the marker; None: a black outline.
    """
    colour = "black" if number is None else COLOURS[number]
    if found.low is not None and found.high is not None:
        axis.plot([found.low, found.high], [at, at], color=colour, linewidth=1.5)
    marker = "o" if number is None else MARKERS[number]
    face = "white" if number is None else colour
    axis.plot([found.mean], [at], marker, color=colour, markerfacecolor=face, markersize=5)


def plain_log(axis: Any) -> None:
    """A logarithmic x axis with plain numbers."""
    from matplotlib import ticker

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())


def error_bars(found: Sequence[Interval]) -> list[list[float]]:
    """Lengths below and above each mean, as matplotlib takes them."""
    below = [0.0 if each.low is None else each.mean - each.low for each in found]
    above = [0.0 if each.high is None else each.high - each.mean for each in found]
    return [below, above]
