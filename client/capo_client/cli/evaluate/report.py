"""The report of `capo eval`: what was judged by whom, what was not and why, and the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

import capo_wire as wire
from capo_client.cli import console
from capo_client.cli.evaluate import measures
from capo_client.cli.evaluate.formats import Example, LeftOut
from capo_client.cli.evaluate.measures import Judged

# What `--set` may vary: options of the wire that have no option of their own in `capo eval`.
VARIED = tuple(
    name
    for name in wire.Voting.model_fields
    if name not in ("method", "n", "early_stop", "temperature", "seed")
)
_FIGURES = ("error_accuracy", "correct_accuracy", "f1", "precision", "recall", "step_f1")
_SHOWN_ENTRIES = 8


@dataclass(frozen=True, slots=True)
class Labels:
    """What a file of labelled solutions held.

    Attributes:
        name: of the file.
        format: of the file.
        examples: those that were judged.
        beyond_limit: how many more there are.
        left_out: entries that cannot be judged.
    """

    name: str
    format: str
    examples: Sequence[Example]
    beyond_limit: int
    left_out: Sequence[LeftOut]


def build(
    labels: Labels,
    judge: wire.Info,
    voting: wire.Voting,
    judged: Sequence[Judged],
    results: Sequence[dict[str, Any]],
    seconds: float | None,
    resamples: int,
) -> dict[str, Any]:
    """The report as JSON.

    Args:
        labels: what the file held.
        judge: what the service told of itself.
        voting: how critiques were sampled.
        judged: one for each example.
        results: what the service answered for each example.
        seconds: how long that took, if all of it was judged in this run.
        resamples: of the bootstrap.
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
            (each.reason, each.entry, each.detail) for each in labels.left_out
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
    """Entries by reason: how many, which, and what is said of the first."""
    found: dict[str, dict[str, Any]] = {}
    for reason, entry, detail in cases:
        group = found.setdefault(reason, {"count": 0, "entries": [], "first": detail})
        group["count"] += 1
        group["entries"].append(entry)
    return dict(sorted(found.items(), key=lambda item: -item[1]["count"]))


def _cost(results: Sequence[dict[str, Any]], seconds: float | None, n: int) -> dict[str, Any]:
    total = wire.Usage()
    for result in results:
        if result["status"] == "ok":
            total += wire.Usage(**result["usage"])
    per = total.completion_tokens / max(total.critiques_run, 1)
    return total.model_dump() | {"completion_tokens_per_critique": per, "n": n, "seconds": seconds}


def tell(found: Mapping[str, Any], folder: Path, pictures: Sequence[Path]) -> None:
    """The report for a person, or as plain lines."""

    def cell(line: dict[str, Any], name: str) -> str:
        if line[name] is None:
            return "-"
        low, high = line["intervals"][name]
        return f"{line[name]:.3f} [{low:.3f}, {high:.3f}]"

    rows = [
        [line["method"], str(line["k"]), *(cell(line, name) for name in _FIGURES)]
        for line in found["table"]
    ]
    headers = [
        "method",
        "k",
        "finds first error",
        "clears right ones",
        "F1",
        "step precision",
        "step recall",
        "step F1",
    ]
    title = (
        f"{found['judge']} on {found['data']} ({found['format']}): {found['examples']} rollouts, "
        f"{found['erroneous']} with an error; 95% intervals"
    )
    console.show(headers, rows, title)
    cost, error, agreed = found["cost"], found["calibration"]["error"], found["agreement"]
    asked = ", ".join(
        f"{name} {value}" for name, value in found["sampling"].items() if value is not None
    )
    facts = {
        "judge": f"{found['judge']} (engine {found['engine']}, {found['judge_digest'] or '-'})",
        "critiques": f"style {found['style']}, format {found['critique_format']}, template "
        f"{found['template'] or '-'}",
        "sampling": asked,
        "entries": f"{found['entries']}: {found['examples']} judged, {found['left_out']} left out"
        + (f", {found['beyond_limit']} beyond --limit" if found["beyond_limit"] else ""),
        **_reasons("left out", found["left_out_because"]),
        **_reasons("labels contradict each other", found["contradictions"]),
        "unjudged rollouts (counted as missed)": found["unjudged"],
        **_reasons("unjudged", found["unjudged_because"]),
        "calibration error of vote shares": "-" if error is None else f"{error:.3f}",
        "agreement between critiques": "-" if agreed is None else f"{agreed:.3f}",
        "tokens written": f"{cost['completion_tokens']:,} in {cost['critiques_run']:,} critiques",
        "tokens read": f"{cost['prompt_tokens']:,}, {cost['cached_tokens']:,} of them from cache",
        "seconds": "-" if cost["seconds"] is None else f"{cost['seconds']:.1f}",
        "written to": ", ".join([f"{folder / 'report.json'}", *map(str, pictures)]),
    }
    for name, value in facts.items():
        typer.echo(f"{name}: {value}")


def _reasons(what: str, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A line for each reason: how many entries, and the first of them."""
    told = {}
    for reason, group in groups.items():
        entries = ", ".join(map(str, group["entries"][:_SHOWN_ENTRIES]))
        more = ", ..." if group["count"] > _SHOWN_ENTRIES else ""
        first = f"; the first: {group['first']}" if group["first"] else ""
        told[f"{what}, {reason}"] = f"{group['count']} (entries {entries}{more}{first})"
    return told
