"""PNGs of what bench/service.py measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(report: dict[str, Any], out: Path) -> None:
    if "concurrency" in report:
        _concurrency(report, out / "service-concurrency.png")
    if "early_stop" in report:
        _early_stop(report, out / "service-early-stop.png")


def _concurrency(report: dict[str, Any], path: Path) -> None:
    rows = report["concurrency"]
    callers = [row["callers"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(callers, [row["tokens_per_s"] for row in rows], "o-", label="service")
    if "engine_tokens_per_s" in report:
        left.axhline(
            report["engine_tokens_per_s"], ls="--", color="grey", label="bare engine, full"
        )
    left.set(
        xscale="log", xlabel="callers, one rollout each", ylabel="judge tokens/s", ylim=(0, None)
    )
    left.legend()
    right.plot(callers, [row["p50_ms"] / 1000 for row in rows], "o-", label="median")
    right.plot(callers, [row["p99_ms"] / 1000 for row in rows], "o-", label="p99")
    right.set(ylabel="seconds")
    right.legend()
    for axes in (left, right):
        axes.set(xscale="log", xlabel="callers, one rollout each", ylim=(0, None))
        axes.set_xticks(callers, map(str, callers))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _early_stop(report: dict[str, Any], path: Path) -> None:
    judges = [name for name in report["early_stop"] if not name.endswith("_live")]
    figure, panels = plt.subplots(
        1,
        len(judges),
        figsize=(5 * len(judges), 4),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )  # fmt: skip
    for axes, judge in zip(panels[0], judges, strict=True):
        for method, ratios in report["early_stop"][judge].items():
            axes.plot(range(1, len(ratios) + 1), ratios, "o-", ms=3, label=method)
        axes.set(xlabel="k, critiques asked for", ylim=(0, 1.05), title=f"judge: {judge}")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("tokens bought / tokens of all k")
    panels[0][0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
