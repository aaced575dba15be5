"""Three pictures of a judge: F1 over critiques, precision and recall, calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLOURS = {
    "greedy": "#6b7280", "intersection": "#2563eb", "majority": "#059669", "union": "#d97706",
    "average": "#7c3aed",
}  # fmt: skip


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write the pictures as PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    lines: dict[str, list[dict[str, Any]]] = {}
    for line in report["table"]:
        if line["method"] != "average":  # wrong at a half, as majority is
            lines.setdefault(line["method"], []).append(line)
    written: list[Path] = []

    def finish(name: str, title: str, x: str, y: str) -> None:
        axes.set(title=f"{title}\n{report['judge']} on {report['data']}", xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(folder / name, dpi=120)
        plt.close(figure)
        written.append(folder / name)

    figure, axes = plt.subplots(figsize=(6, 4))
    for method, points in lines.items():
        known = [p for p in points if p["f1"] is not None]
        if not known:
            continue
        ks, values = [p["k"] for p in known], [p["f1"] for p in known]
        low = [value - p["intervals"]["f1"][0] for value, p in zip(values, known, strict=True)]
        high = [p["intervals"]["f1"][1] - value for value, p in zip(values, known, strict=True)]
        spread = [[max(x, 0.0) for x in low], [max(x, 0.0) for x in high]]
        axes.errorbar(ks, values, spread, label=method, color=_COLOURS[method], marker="o",
                      capsize=3, linewidth=1.5)  # fmt: skip
    axes.set_xscale("log", base=2)
    ticks = sorted({line["k"] for line in report["table"]})
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_ylim(0, 1)
    axes.legend()
    finish("f1.png", "F1 of the first error", "critiques (k)", "F1")

    figure, axes = plt.subplots(figsize=(6, 4))
    for method, points in lines.items():
        known = [p for p in points if p["precision"] is not None and p["recall"] is not None]
        axes.plot([p["recall"] for p in known], [p["precision"] for p in known], marker="o",
                  label=method, color=_COLOURS[method])  # fmt: skip
        for point in known:
            axes.annotate(f"{point['k']}", (point["recall"], point["precision"]), fontsize=8,
                          xytext=(4, 4), textcoords="offset points")  # fmt: skip
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend()
    finish("precision_recall.png", "Steps called wrong, by method and k", "recall", "precision")

    figure, axes = plt.subplots(figsize=(6, 4))
    bins = report["calibration"]["bins"]
    most = max((each["steps"] for each in bins), default=1)
    axes.plot([0, 1], [0, 1], color="#9ca3af", linestyle="--", label="calibrated")
    sizes = [20 + 200 * each["steps"] / most for each in bins]
    axes.scatter(
        [b["share"] for b in bins], [b["wrong"] for b in bins], sizes, color="#2563eb",
        label="steps",
    )  # fmt: skip
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend()
    error = report["calibration"]["error"]
    told = f", expected error {error:.3f}" if error is not None else ""
    finish("calibration.png", f"Calibration{told}", "share of critiques that call it wrong",
           "share that is wrong")  # fmt: skip
    return written
