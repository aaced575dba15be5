"""What `capo eval` prints: tables on a terminal, else plain lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from capo_client.cli import console

_FIGURES = ("error_accuracy", "correct_accuracy", "f1", "precision", "recall", "step_f1")
_SHOWN_ENTRIES = 8
_TOKENS = "tokens per rollout"


def show(report: Mapping[str, Any], folder: Path, plots: Sequence[Path]) -> None:
    """Print the report of one style and thinking budget."""
    _show_table(report)
    cost, error, agreed = report["cost"], report["calibration"]["error"], report["agreement"]
    facts = {
        **_about_judge(report),
        "critiques": f"style {report['style']}, format {report['critique_format']}, template "
        f"{report['template'] or '-'}",
        "sampling": _sampling(report),
        "entries": _entries(report),
        **_reasons("left out", report["left_out_because"]),
        **_reasons("labels contradict each other", report["contradictions"]),
        "unjudged rollouts (counted as missed)": report["unjudged"],
        **_reasons("unjudged", report["unjudged_because"]),
        "calibration error of vote shares": "-" if error is None else f"{error:.3f}",
        "agreement of critiques": "-" if agreed is None else f"{agreed:.3f}",
        **_thoughts(report),
        **_exact(report["exact"]),
        "completion tokens": f"{cost['completion_tokens']:,} in {cost['critiques_run']:,} "
        "critiques",
        "prompt tokens": f"{cost['prompt_tokens']:,}, {cost['cached_tokens']:,} of them from cache",
        "seconds": "-" if cost["seconds"] is None else f"{cost['seconds']:.1f}",
        **_written(folder, plots),
    }
    _print(facts)


def show_comparison(report: Mapping[str, Any], folder: Path, plots: Sequence[Path]) -> None:
    """Print F1 against tokens, and what cannot be compared of each style and budget."""
    headers = [
        *("style", "thinking", "method", "k", "F1"),
        *(f"{name} {_TOKENS}" for name in ("completion", "thinking", "prompt", "cached")),
        "efficient",
    ]
    rows = [
        [
            row["style"],
            _budget(row["thinking_budget"]),
            row["method"],
            str(row["k"]),
            _with_interval(row["f1"], row["interval"]),
            *(
                f"{row[name]:.1f}"
                for name in (
                    "completion_tokens",
                    "thinking_tokens",
                    "prompt_tokens",
                    "cached_tokens",
                )
            ),
            "yes" if row["efficient"] else "",
        ]
        for row in report["f1_by_tokens"]
    ]
    console.show(headers, rows, _title(report), left=3)
    facts = _about_judge(report)
    for run in report["runs"]:
        name = f"style {run['style']}, thinking {_budget(run['thinking_budget'])}"
        facts |= {f"{name}: {fact}": value for fact, value in _thoughts(run).items()}
        facts[f"{name}: unjudged rollouts (counted as missed)"] = run["unjudged"]
        facts |= _reasons(f"{name}: unjudged", run["unjudged_because"])
    _print({**facts, **_written(folder, plots)})


def _show_table(report: Mapping[str, Any]) -> None:
    headers = [
        "method",
        "k",
        "finds first error",
        "clears correct ones",
        "F1",
        "step precision",
        "step recall",
        "step F1",
        f"completion {_TOKENS}",
    ]
    rows = [
        [
            line["method"],
            str(line["k"]),
            *(_with_interval(line[name], line["intervals"][name]) for name in _FIGURES),
            f"{line['tokens']['completion_tokens']:.1f}",
        ]
        for line in (*report["table"], *([report["exact"]] if report["exact"] else []))
    ]
    console.show(headers, rows, _title(report))


def _title(report: Mapping[str, Any]) -> str:
    return (
        f"{report['judge']} on {report['data']} ({report['format']}): "
        f"{report['examples']} rollouts, {report['erroneous']} with an error; 95% intervals"
    )


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or interval is None:
        return "-"
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _budget(tokens: int | None) -> str:
    return "the service's" if tokens is None else str(tokens)


def _about_judge(report: Mapping[str, Any]) -> dict[str, Any]:
    judge = f"{report['judge']} (engine {report['engine']}, {report['judge_digest'] or '-'})"
    return {"judge": judge, "profile": report["profile"] or "-"}


def _sampling(report: Mapping[str, Any]) -> str:
    of_profile = {"temperature": "the profile's", "top_p": "the profile's"}
    named = {
        name: of_profile.get(name) if value is None else value
        for name, value in report["sampling"].items()
    }
    return ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)


def _thoughts(report: Mapping[str, Any]) -> dict[str, Any]:
    thoughts = report["thoughts"]
    if thoughts["mean_tokens"] is None:
        return {}
    return {
        "thoughts": f"budget {_budget(report['thinking_budget'])}, mean length "
        f"{thoughts['mean_tokens']:.1f} tokens, {thoughts['truncated']:.1%} reached the budget",
        "critiques with a verdict": f"{thoughts['readable']:.1%}",
    }


def _exact(line: Mapping[str, Any] | None) -> dict[str, str]:
    if line is None:
        return {}
    undecided = f", {line['undecided']} rollouts undecided" if line["undecided"] else ""
    return {"exact votes": f"{line['requests']:.2f} requests per rollout{undecided}"}


def _written(folder: Path, plots: Sequence[Path]) -> dict[str, str]:
    return {"written to": ", ".join([f"{folder / 'report.json'}", *map(str, plots)])}


def _entries(report: Mapping[str, Any]) -> str:
    parts = [f"{report['examples']} judged", f"{report['left_out']} left out"]
    if report["beyond_limit"]:
        parts.append(f"{report['beyond_limit']} beyond --limit")
    return f"{report['entries']}: {', '.join(parts)}"


def _reasons(what: str, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A line for each reason: the number of entries, and the first of them."""
    lines = {}
    for reason, group in groups.items():
        entries = ", ".join(map(str, group["entries"][:_SHOWN_ENTRIES]))
        more = ", ..." if group["count"] > _SHOWN_ENTRIES else ""
        first = f"; the first: {group['first']}" if group["first"] else ""
        lines[f"{what}, {reason}"] = f"{group['count']} (entries {entries}{more}{first})"
    return lines


def _print(facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        typer.echo(f"{name}: {value}")
