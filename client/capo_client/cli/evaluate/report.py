"""The report of `capo eval`: judge, data, entries left out and why, and the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

import capo_wire as wire
from capo_client.cli import console
from capo_client.cli.evaluate import measures
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.formats import LeftOut
from capo_client.cli.evaluate.measures import JudgedExample

# What `--set` may vary: fields of `voting` without a command-line option of their own.
VARIED = tuple(
    name
    for name in wire.Voting.model_fields
    if name not in ("method", "n", "early_stop", "temperature", "seed")
)
_FIGURES = ("error_accuracy", "correct_accuracy", "f1", "precision", "recall", "step_f1")
_SHOWN_ENTRIES = 8


@dataclass(frozen=True, slots=True)
class Labels:
    """The contents of a file of labelled solutions.

    Attributes:
        name: the file's name.
        format: its format's name.
        examples: those that were judged.
        beyond_limit: the number of examples beyond `--limit`.
        left_out: entries that cannot be judged.
    """

    name: str
    format: str
    examples: Sequence[LabelledExample]
    beyond_limit: int
    left_out: Sequence[LeftOut]


def build(
    labels: Labels,
    judge: wire.Info,
    voting: wire.Voting,
    judged: Sequence[JudgedExample],
    results: Sequence[dict[str, Any]],
    seconds: float | None,
    resamples: int,
) -> dict[str, Any]:
    """The report as JSON.

    Args:
        labels: the contents of the file.
        judge: the service's `GET /info`.
        voting: how critiques were sampled.
        judged: one for each example.
        results: the service's result for each example.
        seconds: how long judging took, if all of it was done in this run.
        resamples: those of the bootstrap.
    """
    examples, seed, n = labels.examples, voting.seed or 0, voting.critiques
    error, bins = measures.calibration(measures.shares(judged))
    return {
        "judge": judge.model,
        "engine": judge.engine,
        "style": voting.critique_style or judge.critique_style,
        "critique_format": judge.critique_format,
        "template": judge.template,
        "judge_digest": judge.judge_digest,
        "service_version": judge.version,
        "sampling": voting.model_dump(include={"n", "temperature", "seed", *VARIED}),
        "format": labels.format,
        "data": labels.name,
        "entries": len(examples) + labels.beyond_limit + len(labels.left_out),
        "examples": len(examples),
        "beyond_limit": labels.beyond_limit,
        "left_out": len(labels.left_out),
        "left_out_because": _grouped(
            (entry.reason, entry.entry, entry.detail) for entry in labels.left_out
        ),
        "contradictory": sum(each.contradiction is not None for each in examples),
        "contradictions": _grouped(
            (each.contradiction, each.entry, None) for each in examples if each.contradiction
        ),
        "erroneous": sum(each.first_error is not None for each in examples),
        "unjudged": sum(not each.critiques for each in judged),
        "unjudged_because": _grouped(
            (result["error"]["title"], example.entry, result["error"]["detail"])
            for example, result in zip(examples, results, strict=True)
            if result["status"] == "error"
        ),
        "n": n,
        "temperature": voting.temperature,
        "seed": seed,
        "table": measures.table(judged, n, resamples, seed),
        "agreement": measures.critique_agreement(judged),
        "cost": _cost(results, seconds, n),
        "calibration": {"error": error, "bins": bins},
    }


def _grouped(cases: Iterable[tuple[str, int, str | None]]) -> dict[str, dict[str, Any]]:
    """Entries by reason: count, entry numbers, and the detail of the first."""
    groups: dict[str, dict[str, Any]] = {}
    for reason, entry, detail in cases:
        group = groups.setdefault(reason, {"count": 0, "entries": [], "first": detail})
        group["count"] += 1
        group["entries"].append(entry)
    return dict(sorted(groups.items(), key=lambda item: -item[1]["count"]))


def _cost(results: Sequence[dict[str, Any]], seconds: float | None, n: int) -> dict[str, Any]:
    total = wire.Usage()
    for result in results:
        if result["status"] == "ok":
            total += wire.Usage(**result["usage"])
    mean = total.completion_tokens / max(total.critiques_run, 1)
    return total.model_dump() | {"completion_tokens_per_critique": mean, "n": n, "seconds": seconds}


def show(report: Mapping[str, Any], folder: Path, plots: Sequence[Path]) -> None:
    """Print the report: tables on a terminal, else plain lines."""

    def cell(line: dict[str, Any], name: str) -> str:
        if line[name] is None:
            return "-"
        low, high = line["intervals"][name]
        return f"{line[name]:.3f} [{low:.3f}, {high:.3f}]"

    rows = [
        [line["method"], str(line["k"]), *(cell(line, name) for name in _FIGURES)]
        for line in report["table"]
    ]
    headers = [
        "method",
        "k",
        "finds first error",
        "clears correct ones",
        "F1",
        "step precision",
        "step recall",
        "step F1",
    ]
    title = (
        f"{report['judge']} on {report['data']} ({report['format']}): "
        f"{report['examples']} rollouts, {report['erroneous']} with an error; 95% intervals"
    )
    console.show(headers, rows, title)
    cost, error, agreed = report["cost"], report["calibration"]["error"], report["agreement"]
    sampling = ", ".join(
        f"{name} {value}" for name, value in report["sampling"].items() if value is not None
    )
    facts = {
        "judge": f"{report['judge']} (engine {report['engine']}, {report['judge_digest'] or '-'})",
        "critiques": f"style {report['style']}, format {report['critique_format']}, template "
        f"{report['template'] or '-'}",
        "sampling": sampling,
        "entries": _entries(report),
        **_reasons("left out", report["left_out_because"]),
        **_reasons("labels contradict each other", report["contradictions"]),
        "unjudged rollouts (counted as missed)": report["unjudged"],
        **_reasons("unjudged", report["unjudged_because"]),
        "calibration error of vote shares": "-" if error is None else f"{error:.3f}",
        "agreement of critiques": "-" if agreed is None else f"{agreed:.3f}",
        "completion tokens": f"{cost['completion_tokens']:,} in {cost['critiques_run']:,} "
        "critiques",
        "prompt tokens": f"{cost['prompt_tokens']:,}, {cost['cached_tokens']:,} of them from cache",
        "seconds": "-" if cost["seconds"] is None else f"{cost['seconds']:.1f}",
        "written to": ", ".join([f"{folder / 'report.json'}", *map(str, plots)]),
    }
    for name, value in facts.items():
        typer.echo(f"{name}: {value}")


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
