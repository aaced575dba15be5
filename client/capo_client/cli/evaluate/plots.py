"""Plots of a judge: F1 by number of critiques and by tokens, precision and recall, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_COLOURS = {
    "greedy": "#6b7280",
    "intersection": "#2563eb",
    "majority": "#059669",
    "union": "#d97706",
    "average": "#7c3aed",
}
_RUN_COLOURS = ("#2563eb", "#059669", "#d97706", "#dc2626", "#7c3aed", "#0891b2", "#4b5563")
_STYLES = {"verdict": "o", "brief": "s", "full": "^"}  # markers


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the plots of a report, or of a comparison of several, as PNG files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    subject = f"{report['judge']} on {report['data']}"
    written = [] if "runs" in report else _draw_votes(report, folder, subject)
    if report["f1_by_tokens"]:
        written.append(folder / "f1_by_tokens.png")
        _draw_tokens(written[-1], report["f1_by_tokens"], subject)
    return written


def _draw_votes(report: Mapping[str, Any], folder: Path, subject: str) -> list[Path]:
    by_method: dict[str, list[dict[str, Any]]] = {}
    for line in report["table"]:
        if line["method"] != "average":  # it calls a step wrong from 0.5 on, as majority does
            by_method.setdefault(line["method"], []).append(line)
    names = ("f1.png", "precision_recall.png", "calibration.png")
    written = [folder / name for name in names]
    with _figure(written[0], subject, "F1 of the first error", "critiques (k)", "F1") as axes:
        _draw_f1(axes, by_method, sorted({line["k"] for line in report["table"]}))
    title = "Steps called wrong, by method and k"
    with _figure(written[1], subject, title, "recall", "precision") as axes:
        _draw_precision_recall(axes, by_method)
    error = report["calibration"]["error"]
    title = "Calibration" if error is None else f"Calibration, expected error {error:.3f}"
    labels = "share of critiques that call it wrong", "share that is wrong"
    with _figure(written[2], subject, title, *labels) as axes:
        _draw_calibration(axes, report["calibration"]["bins"])
    return written


@contextmanager
def _figure(path: Path, subject: str, title: str, x: str, y: str) -> Iterator[Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    yield axes
    axes.legend()
    axes.set(title=f"{title}\n{subject}", xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_f1(axes: Any, by_method: dict[str, list[dict[str, Any]]], ticks: list[int]) -> None:
    for method, lines in by_method.items():
        known = [line for line in lines if line["f1"] is not None]
        if not known:
            continue
        values = [line["f1"] for line in known]
        bounds = [line["intervals"]["f1"] for line in known]
        low = [max(value - low, 0.0) for value, (low, _) in zip(values, bounds, strict=True)]
        high = [max(high - value, 0.0) for value, (_, high) in zip(values, bounds, strict=True)]
        axes.errorbar(
            [line["k"] for line in known],
            values,
            [low, high],
            label=method,
            color=_COLOURS[method],
            marker="o",
            capsize=3,
            linewidth=1.5,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_ylim(0, 1)


def _draw_precision_recall(axes: Any, by_method: dict[str, list[dict[str, Any]]]) -> None:
    for method, lines in by_method.items():
        known = [line for line in lines if None not in (line["precision"], line["recall"])]
        recall = [line["recall"] for line in known]
        precision = [line["precision"] for line in known]
        axes.plot(recall, precision, marker="o", label=method, color=_COLOURS[method])
        for line in known:
            axes.annotate(
                f"{line['k']}",
                (line["recall"], line["precision"]),
                fontsize=8,
                xytext=(4, 4),
                textcoords="offset points",
            )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))


def _draw_calibration(axes: Any, bins: list[dict[str, Any]]) -> None:
    most = max((each["steps"] for each in bins), default=1)
    axes.plot([0, 1], [0, 1], color="#9ca3af", linestyle="--", label="calibrated")
    axes.scatter(
        [each["share"] for each in bins],
        [each["wrong"] for each in bins],
        [20 + 200 * each["steps"] / most for each in bins],
        color="#2563eb",
        label="steps",
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _draw_tokens(path: Path, rows: Sequence[Mapping[str, Any]], subject: str) -> None:
    """F1 by sampled tokens, and by all tokens that the judge computes for a rollout."""
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    labels = "completion tokens per rollout", "completion and computed prompt tokens per rollout"
    for axes, label, computes in zip(panels, labels, (False, True), strict=True):
        _draw_runs(axes, rows, computes)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set(xlabel=label, ylim=(0, 1))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("F1")
    panels[0].legend(fontsize=8)
    title = "F1 of the first error by judge tokens; numbers: majority of k critiques"
    figure.suptitle(f"{title}\n{subject}", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_runs(axes: Any, rows: Sequence[Mapping[str, Any]], computes: bool) -> None:
    runs: dict[tuple[str, int | None], list[tuple[float, Mapping[str, Any]]]] = {}
    for row in rows:
        prompt = row["prompt_tokens"] - row["cached_tokens"] if computes else 0.0
        tokens = row["completion_tokens"] + prompt
        if tokens > 0:  # the axis is logarithmic
            runs.setdefault((row["style"], row["thinking_budget"]), []).append((tokens, row))
    for number, ((style, budget), points) in enumerate(runs.items()):
        look = {
            "color": _RUN_COLOURS[number % len(_RUN_COLOURS)],
            "marker": _STYLES.get(style, "D"),
            "markersize": 5,
        }
        thinking = "" if budget is None else f", {budget} thinking tokens"
        votes = [(x, row) for x, row in points if row["method"] != "greedy"]
        xs, ys = [x for x, _ in votes], [row["f1"] for _, row in votes]
        axes.plot(xs, ys, label=style + thinking, linewidth=1.2, **look)
        for x, row in votes:
            place = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 7}
            axes.annotate(f"{row['k']}", (x, row["f1"]), **place)
        for x, row in points:
            if row["method"] == "greedy":
                axes.plot([x], [row["f1"]], linestyle="", markerfacecolor="white", **look)
    axes.plot([], [], "o", color="#6b7280", markerfacecolor="white", label="greedy (open symbols)")
    _draw_front(axes, [(x, row["f1"]) for points in runs.values() for x, row in points])


def _draw_front(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    front: list[tuple[float, float]] = []
    for x, f1 in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or f1 > front[-1][1]:
            front.append((x, f1))
    xs, ys = [x for x, _ in front], [f1 for _, f1 in front]
    look = {"color": "#111827", "linestyle": "--", "linewidth": 0.9, "zorder": 0}
    axes.step(xs, ys, where="post", label="most F1 for its tokens", **look)
