"""The summary of docs/experiment.md, and the figures of build/bench/experiment.json."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from capo_testbed.experiment.collect import Result, Results
from capo_testbed.experiment.equal_compute import FAMILIES, SIZES, gain_at, vanishing_size
from capo_testbed.experiment.grids import vanishing_text
from capo_testbed.experiment.intervals import Interval, student
from capo_testbed.experiment.questions import F1S, RATES, Question, errors_name, vote_names
from capo_testbed.experiment.reported import REPORTED
from capo_testbed.experiment.tables import (
    NONE,
    WRONG,
    covered,
    gain,
    gains_of,
    is_baseline,
    markdown,
)

JUDGE = "capo-majority"
CHEAPEST = "capo-greedy"  # the arm that GRPO's longer runs were planned for


def summary_table(results: Results) -> str:
    """A line for each question: what was measured, in points over the outcome alone."""
    rows = []
    for question in REPORTED:
        found = _HEADLINES.get(question.name, _every_gain)(question, results)
        rows.append([f"[{question.title}](#{anchor(question.title)})", found or NONE])
    return markdown(["question", "gain over GRPO in points, 95% intervals"], rows)


def anchor(title: str) -> str:
    """The anchor of a heading, on the site and on GitHub."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _controls(_: Question, results: Results) -> str:
    parts = []
    for name in (JUDGE, "oracle", "control-random", "control-shifted", "control-uniform"):
        if gained := gain(results.settings, name, "grpo"):
            share = None if name == "oracle" else covered(results.settings, name)
            way = f" ({share.mean:.0f}% of the oracle's)" if share else ""
            parts.append(f"`{name}` {gained.gain()}{way}")
    return "; ".join(parts)


def _compute(_: Question, results: Results) -> str:
    if len(results.shapes) < 2:
        return ""
    parts = []
    for family in FAMILIES:
        gains = [(size, gain_at(results, CHEAPEST, family, size)) for size in SIZES]
        shown = [f"{found.gain()} at {size:.0f} times" for size, found in gains if found]
        if shown:
            gone = vanishing_text(vanishing_size(results, CHEAPEST, family))
            parts.append(
                f"against more {family}, by the judge's size: {', '.join(shown)} the policy's "
                f"parameters; gone at {gone}"
            )
    return "; ".join(parts)


def _votes(question: Question, results: Results) -> str:
    every = gains_of(question, results.settings)
    parts = []
    for f1 in F1S:
        gains = {name: every[name] for name, _method, _k in vote_names(f1) if name in every}
        one = gains.pop(f"votes-f{int(100 * f1)}-one", None)
        if one and gains:
            best, worst = (pick(gains, key=lambda n: gains[n].mean) for pick in (max, min))
            parts.append(
                f"step F1 {f1:g}: one critique {one.gain()}, best `{best}` {gains[best].gain()}, "
                f"worst `{worst}` {gains[worst].gain()}"
            )
    return "; ".join(parts)


def _errors(question: Question, results: Results) -> str:
    gains = gains_of(question, results.settings)
    low, high = RATES[0], RATES[-1]
    corners = (
        ("no errors", high, high),
        ("only false alarms", low, high),
        ("only misses", high, low),
        ("both", low, low),
    )
    parts = []
    for title, precision, recall in corners:
        if found := gains.get(errors_name(precision, recall)):
            parts.append(f"{title} (precision {precision:g}, recall {recall:g}) {found.gain()}")
    return "; ".join(parts)


def _every_gain(question: Question, results: Results) -> str:
    gains = gains_of(question, results.settings)
    judged = [s.name for s in question.settings if s.name in gains and not is_baseline(s)]
    return "; ".join(f"`{name}` {gains[name].gain()}" for name in judged)


_HEADLINES: Mapping[str, Callable[[Question, Results], str]] = {
    "controls": _controls,
    "compute": _compute,
    "votes": _votes,
    "errors": _errors,
}


def wrong_step_reduction(results: Mapping[str, Result], name: str) -> Interval | None:
    """By which part of GRPO's wrong steps a setting has fewer, in percent, paired by seed."""
    if name not in results or "grpo" not in results:
        return None
    ours, theirs = (results[each].final(WRONG) for each in (name, "grpo"))
    parts = [100 * (1 - ours[seed] / theirs[seed]) for seed in ours if theirs.get(seed)]
    return student(parts) if parts else None


def bench_figures(results: Results) -> dict[str, Any]:
    """What build/bench/experiment.json states; None: runs are missing."""
    settings = results.settings
    sized = len(results.shapes) == 2

    def equal(family: str, size: float | None) -> dict[str, Any] | None:
        return _json(gain_at(results, CHEAPEST, family, size)) if sized else None

    figures: dict[str, Any] = {
        "gain_judge": _json(gain(settings, JUDGE, "grpo")),
        "gain_oracle": _json(gain(settings, "oracle", "grpo")),
        "gain_random": _json(gain(settings, "control-random", "grpo")),
        "gain_equal_compute": equal("steps", None),
        "wrong_step_reduction": _json(wrong_step_reduction(settings, JUDGE)),
        "covered_by_judge": _json(covered(settings, JUDGE)),
        "covered_by_random": _json(covered(settings, "control-random")),
    }
    for family in FAMILIES:
        by_size = {f"{size:.0f}": equal(family, size) for size in SIZES}
        figures[f"gain_equal_compute_{family}"] = by_size
        gone = vanishing_size(results, CHEAPEST, family) if sized else None
        figures[f"gain_vanishes_{family}"] = vanishing_text(gone) or None
    return figures


def _json(found: Interval | None) -> dict[str, float | int | None] | None:
    return None if found is None else found.as_dict()
