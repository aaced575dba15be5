"""What bench/service.py measured: a table for the terminal, and those of docs/performance.md."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

SHOWN = {
    "engine_tokens_per_s": "bare engine (vLLM's defaults), tokens/s",
    "service_tokens_per_s": "service, tokens/s",
    "overhead_ratio": "service / engine",
    "max_loop_block_ms": "event loop, blocked at most, ms",
    "equal_quality_speedup": "service / script at equal F1, k = 8",
    "tuned_script_speedup": "the same, script with the service's engine arguments",
    "prefix_hit_ratio": "prompt tokens from the cache, k = 4",
    "prefix_hit_ratio_1": "the same, k = 1",
    "vote_cost_4": "time of k = 4 / k = 1",
    "vote_cost_16": "time of k = 16 / k = 1",
    "p50_ms": "a rollout alone, median ms",
    "p99_ms": "and p99",
    "judge_tokens_per_rollout_token": "judge tokens / rollout token",
    "seconds": "this benchmark, s",
}
STOPPED = (  # a judge of the early-stopping table, and its name there
    ("testbed-f60", "testbed-f60"),
    ("testbed", "testbed"),
    ("embedded", "embedded 135M"),
)


def show(report: dict[str, Any]) -> None:
    table = Table("", "measured", title=f"Service on {report['cores']} cores")
    for name, meaning in SHOWN.items():
        if report.get(name) is not None:
            table.add_row(meaning, f"{report[name]:.3g}")
    for method, ratio in report.get("early_stop_token_ratio", {}).items():
        table.add_row(f"tokens sampled with early stopping, {method}, k = 4", f"{ratio:.2f}")
    Console().print(table)
    if "engine_arguments" in report:
        given, chosen = report["engine_arguments"], report["engine_limits"]
        print(f"The bare engine was given {given} and chose {chosen}.")


def markdown(report: dict[str, Any]) -> str:
    """The tables of docs/performance.md, from a report of all parts."""
    tables = (_engine, _script, _loop, _early_stop, _styles, _costs, _latency)
    return "\n\n".join("\n".join(make(report)) for make in tables) + "\n"


def updated(page: str, report: dict[str, Any]) -> str:
    """The page, with these tables in the place of those that have the same first line.

    Raises:
        ValueError: the page has no such table.
    """
    for table in markdown(report).strip().split("\n\n"):
        head = table.partition("\n")[0]
        start = page.find(f"\n{head}\n") + 1
        if not start:
            raise ValueError(f"there is no table that starts with {head}")
        page = page[:start] + table + page[page.index("\n\n", start) :]
    return page


def _engine(report: dict[str, Any]) -> list[str]:
    rounds = ", ".join(f"{ratio:.2f}" for ratio in report["overhead_ratios"])
    return [
        "| | tokens/s |",
        "|---|---|",
        f"| `engine_tokens_per_s`, median | {report['engine_tokens_per_s']:.0f} |",
        f"| `service_tokens_per_s`, median | {report['service_tokens_per_s']:.0f} |",
        f"| `overhead_ratio`, median of the rounds' ratios ({rounds}) "
        f"| {report['overhead_ratio']:.2f} |",
    ]


def _script(report: dict[str, Any]) -> list[str]:
    lines = [
        "| | rollouts/s | step F1, 95% interval | judge tokens per rollout |",
        "|---|---|---|---|",
    ]
    for name, row in report["script"]["cases"].items():
        low, high = row["f1_95"]
        lines.append(
            f"| {name} | {row['rollouts_per_s']:.1f} | {row['f1']:.3f} [{low:.3f}, {high:.3f}] | "
            f"{row['tokens_per_rollout']:.1f} |"
        )
    lines += [
        "",
        "| service / script at equal F1, median of the rounds' ratios | k = 4 | k = 8 |",
        "|---|---|---|",
    ]
    for name, key in (
        ("script, vLLM's defaults", "equal_quality_speedups"),
        ("script, the service's engine arguments", "tuned_script_speedups"),
    ):
        cells = [
            f"{ratio:.2f} ({way})" if ratio else "no vote has its F1"
            for ratio, way in report["script"][key].values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _loop(report: dict[str, Any]) -> list[str]:
    loops = {
        "brief critiques, one batch (`max_loop_block_ms`)": report,
        "1 to 32 callers": report["latency_loop"],
        "script comparison (testbed's judge)": report["script"]["loop"],
    }
    lines = ["| | samples | over 20 ms | longest, at most, ms |", "|---|---|---|---|"]
    for name, loop in loops.items():
        counts = {float(edge.split()[0]): n for edge, n in loop["loop_wake_ups"].items()}
        late = sum(n for edge, n in counts.items() if edge > 20)
        lines.append(
            f"| {name} | {sum(counts.values()):,.0f} | {late:.0f} | "
            f"{loop['max_loop_block_ms']:.0f} |"
        )
    return lines


def _early_stop(report: dict[str, Any]) -> list[str]:
    lines = [
        "| judge | intersection, k = 4 | 8 | 16 | majority, k = 4 | 8 | 16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for judge, name in STOPPED:
        ratios = report["early_stop"][judge]
        cells = [
            f"{ratios[method][k - 1]:.2f}"
            for method in ("intersection", "majority")
            for k in (4, 8, 16)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| as sampled, k = 4 | intersection: tokens | same verdicts | majority: tokens | "
        "same verdicts |",
        "|---|---|---|---|---|",
    ]
    for judge, name in STOPPED:
        cells = []
        for method in ("intersection", "majority"):
            row = report["early_stop"][f"{judge}_live"][method]
            same = round(row["same_verdicts"] * row["rollouts"])
            cells += [f"{row['token_ratio']:.2f}", f"{same} of {row['rollouts']}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _styles(report: dict[str, Any]) -> list[str]:
    lines = [
        "| `critique_style` | tokens per critique | rollouts/s "
        "| critiques on the larger side, mean over steps |",
        "|---|---|---|---|",
    ]
    for style, row in report["styles"].items():
        lines.append(
            f"| {style} | {row['tokens']:.0f} | {row['rollouts_per_s']:.2f} | "
            f"{row['agreement_within']:.0%} |"
        )
    lines += ["", "| majorities that agree, of all steps | |", "|---|---|"]
    for pair, share in report["agreement_between"].items():
        lines.append(f"| {pair.replace('-', ' and ')} | {share:.0%} |")
    return lines


def _costs(report: dict[str, Any]) -> list[str]:
    lines = ["| verdicts | time, k = 1 is 1 |", "|---|---|"]
    for name, cost in report["vote_cost"].items():
        lines.append(f"| k = {name} | {cost:.2f} |")
    return lines


def _latency(report: dict[str, Any]) -> list[str]:
    rows = report["concurrency"]
    names = {
        "callers": ("callers", "{:.0f}", 1.0),
        "rollouts/s": ("rollouts_per_s", "{:.2f}", 1.0),
        "median, s": ("p50_ms", "{:.2g}", 0.001),
        "p99, s": ("p99_ms", "{:.2g}", 0.001),
    }
    lines: list[str] = []
    for name, (key, form, factor) in names.items():
        lines.append(f"| {name} | {' | '.join(form.format(factor * row[key]) for row in rows)} |")
        if len(lines) == 1:
            lines.append("|---" * (len(rows) + 1) + "|")
    return lines
