"""Plots of a judge: F1 by number of critiques, precision and recall, calibration."""

from __future__ import annotations

from collections.abc import Iterator
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


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write the plots as PNG files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    subject = f"{report['judge']} on {report['data']}"
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
