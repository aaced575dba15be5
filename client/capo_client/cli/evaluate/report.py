"""The report of `capo eval`: judge, data, entries left out and why, and the figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import capo_wire as wire
from capo_client.cli.evaluate import measures, tokens
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.formats import LeftOut
from capo_client.cli.evaluate.judging import Results, exact_wrong_steps
from capo_client.cli.evaluate.measures import JudgedExample

# Fields of `voting` that have a command-line option of their own, or no part in an evaluation.
_NOT_VARIED = frozenset(
    {
        *("method", "n", "exact", "early_stop", "temperature", "seed"),
        *("thinking_tokens", "criteria_dropout"),
    }
)
# What `--set` may vary.
VARIED = tuple(name for name in wire.Voting.model_fields if name not in _NOT_VARIED)


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
    results: Results,
    resamples: int,
) -> dict[str, Any]:
    """The report of one style and thinking budget, as JSON.

    Args:
        labels: the contents of the file.
        judge: the service's `GET /info`.
        voting: how critiques were sampled.
        judged: one for each example.
        results: the service's results for all examples.
        resamples: those of the bootstrap.
    """
    examples, seed, n = labels.examples, voting.seed or 0, voting.critiques
    error, bins = measures.calibration(measures.shares(judged))
    table = measures.table(judged, n, resamples, seed)
    for line in table:
        source = results.greedy if line["method"] == "greedy" else results.sampled
        line["tokens"] = tokens.of_votes(source, line["k"])
    report = {
        **_judge(judge),
        "style": voting.critique_style or judge.critique_style,
        "thinking_budget": voting.thinking_tokens,
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
            for example, result in zip(examples, results.sampled, strict=True)
            if result["status"] == "error"
        ),
        "n": n,
        "temperature": voting.temperature,
        "seed": seed,
        "table": table,
        "exact": _exact(judged, results.exact, resamples, seed),
        "thoughts": tokens.thoughts(results.sampled),
        "agreement": measures.critique_agreement(judged),
        "cost": _cost(results, n),
        "calibration": {"error": error, "bins": bins},
    }
    return report | {"f1_by_tokens": tokens.compared([report])}


def _exact(
    judged: Sequence[JudgedExample],
    results: Sequence[dict[str, Any]] | None,
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    """The line of exact votes; None if they were not asked for."""
    if results is None:
        return None
    line = measures.exact_line(judged, exact_wrong_steps(results), resamples, seed)
    credited = [result for result in results if result["status"] == "ok"]
    requests = sum(each["usage"]["critiques_run"] for each in credited) / max(len(credited), 1)
    return {
        **line,
        "tokens": tokens.of_votes(results, requests),
        "requests": requests,
        "undecided": sum(not each["exact"]["decided"] for each in credited),
    }


def compare(judge: wire.Info, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report of several styles and thinking budgets, as JSON.

    Args:
        judge: the service's `GET /info`.
        reports: one of each style and budget.
    """
    shared = ("data", "format", "examples", "erroneous", "n")
    return {
        **_judge(judge),
        **{name: reports[0][name] for name in shared},
        "f1_by_tokens": tokens.compared(reports),
        "runs": list(reports),
    }


def _judge(judge: wire.Info) -> dict[str, Any]:
    return {
        "judge": judge.model,
        "engine": judge.engine,
        "profile": judge.profile,
        "critique_format": judge.critique_format,
        "template": judge.template,
        "judge_digest": judge.judge_digest,
        "service_version": judge.version,
    }


def _grouped(cases: Iterable[tuple[str, int, str | None]]) -> dict[str, dict[str, Any]]:
    """Entries by reason: count, entry numbers, and the detail of the first."""
    groups: dict[str, dict[str, Any]] = {}
    for reason, entry, detail in cases:
        group = groups.setdefault(reason, {"count": 0, "entries": [], "first": detail})
        group["count"] += 1
        group["entries"].append(entry)
    return dict(sorted(groups.items(), key=lambda item: -item[1]["count"]))


def _cost(results: Results, n: int) -> dict[str, Any]:
    total = wire.Usage()
    for result in results.sampled:
        if result["status"] == "ok":
            total += wire.Usage(**result["usage"])
    mean = total.completion_tokens / max(total.critiques_run, 1)
    cost = {"completion_tokens_per_critique": mean, "n": n, "seconds": results.seconds}
    return total.model_dump() | cost
