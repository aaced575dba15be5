"""Tables of single questions: equal compute, votes, and errors of the judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from capo_testbed.experiment.collect import Result, Results
from capo_testbed.experiment.equal_compute import (
    FAMILIES,
    SIZES,
    Vanishing,
    gain_at,
    judge_size,
    mean_flops,
    vanishing_size,
)
from capo_testbed.experiment.exact_votes import voted
from capo_testbed.experiment.intervals import Interval, student
from capo_testbed.experiment.questions import (
    COMPUTE,
    CRITIQUES,
    ERRORS,
    F1S,
    METHODS,
    RATES,
    VOTES,
    errors_name,
    vote_names,
)
from capo_testbed.experiment.tables import gain, gains_of, markdown
from capo_testbed.simulated import Rates
from capo_wire import VotingMethod

ARMS = ("capo-greedy", "capo-majority")


def flops_table(results: Results) -> str:
    """FLOPs of each arm of the question of equal compute, by part."""
    if len(results.shapes) < 2:
        return markdown([], [])
    head = ["setting", "sampling: prefill", "sampling: decode", "training"]
    head += ["judge: prefill", "judge: decode", "judge: attention to cached tokens"]
    head += ["total", "times grpo", "seconds"]
    names = [s.name for s in COMPUTE.settings if s.name in results.settings]
    grpo = mean_flops(results, "grpo").total if "grpo" in results.settings else math.nan
    rows = []
    for name in names:
        spent = mean_flops(results, name)
        policy = (spent.prefill, spent.decode, spent.training)
        judge = (spent.judge_prefill, spent.judge_decode, spent.judge_cached)
        cells = [name, *(f"{part / 1e9:.1f}" for part in (*policy, *judge, spent.total))]
        cells.append(f"{spent.total / grpo:.2f}" if spent.total else "")
        cells.append(student(results.settings[name].totals["step_seconds"]).level(0))
        rows.append(cells)
    return markdown(head, rows)


def equal_compute_table(results: Results) -> str:
    """The gain over GRPO at equal FLOPs, by the judge's size."""
    if len(results.shapes) < 2:
        return markdown([], [])
    real = judge_size(results)
    head = ["setting", "judge's FLOPs given to GRPO as", f"judge as it is ({real:.1f} times)"]
    head += [f"{size:.0f} times" for size in SIZES] + ["the gain vanishes at"]
    rows = []
    for arm in ARMS:
        for name in FAMILIES:
            gains = [gain_at(results, arm, name, size) for size in (None, *SIZES)]
            if any(gains):
                cells = [each.gain() if each else "beyond GRPO's runs" for each in gains]
                gone = vanishing_size(results, arm, name)
                rows.append([arm, f"more {name}", *cells, vanishing_text(gone)])
    return markdown(head, rows)


def vanishing_text(found: Vanishing | None) -> str:
    """Such as `60 times [34, 110]`, or `more than 80 times`."""
    if found is None:
        return ""
    if math.isinf(found.size):
        text = f"more than {found.largest:.3g} times"
        return text if math.isinf(found.low) else f"{text} [from {found.low:.2g}]"
    high = f"more than {found.largest:.3g}" if math.isinf(found.high) else f"{found.high:.2g}"
    return f"{found.size:.2g} times [{found.low:.2g}, {high}]"


def votes_table(results: Mapping[str, Result]) -> str:
    """Gain over GRPO by the judge's F1, the vote and k."""
    head = ["step F1 of one critique", "vote", *(f"k = {k}" for k in (1, *CRITIQUES))]
    found = gains_of(VOTES, results)
    rows = []
    for f1 in F1S:
        names = {(method, k): name for name, method, k in vote_names(f1)}
        for method in ("one", *METHODS):
            gains = [found.get(names.get((method, k), "")) for k in (1, *CRITIQUES)]
            if any(gains):
                rows.append([f"{f1:g}", method, *(g.gain() if g else "" for g in gains)])
    systematic = found.get("votes-f60-systematic")
    if systematic:
        same = ["the same"] * len(CRITIQUES)
        rows.append(["0.6, systematic", "any", systematic.gain(), *same])
    return markdown(head, rows)


def exact_votes_table() -> str:
    """What each vote does to independent errors, without training."""
    head = ["step F1 of one critique", "vote", "k", "precision", "recall"]
    head += ["change of false alarms", "change of misses"]
    head += ["standard deviation of a wrong step's penalty"]
    rows = []
    for f1 in F1S:
        rates = Rates(precision=f1, recall=f1)
        one = voted(rates, "greedy", 1)
        for method in METHODS:
            for k in CRITIQUES:
                found = voted(rates, cast(VotingMethod, method), k)
                alarms = found.false_alarm / one.false_alarm - 1
                misses = found.misses / one.misses - 1
                cells = [f"{f1:g}", method, str(k), f"{found.precision:.2f}", f"{found.recall:.2f}"]
                rows.append([*cells, f"{alarms:+.0%}", f"{misses:+.0%}", f"{found.noise:.2f}"])
    return markdown(head, rows)


def errors_table(results: Mapping[str, Result]) -> str:
    """Gain over GRPO by the judge's precision (lines) and recall (columns)."""
    head = ["precision", *(f"recall {recall:g}" for recall in RATES)]
    found = gains_of(ERRORS, results)
    rows = []
    for precision in RATES:
        gains = [found.get(errors_name(precision, recall)) for recall in RATES]
        if any(gains):
            rows.append([f"{precision:g}", *(g.gain() if g else "" for g in gains)])
    return markdown(head, rows)


def judges_table(results: Results) -> str:
    """Real judges on the starting policy's rollouts, their gain, and that of the map there."""
    head = ["judge of", "step precision", "step recall", "step F1", "gain over GRPO, points"]
    head += ["of simulated judges with these rates"]
    found = gains_of(ERRORS, results.settings)
    rows = []
    for judge in results.judges:
        cells = [judge["judge"], *(f"{judge[name]:.3f}" for name in ("precision", "recall", "f1"))]
        measured = gain(results.settings, judge["judge"], "grpo")
        at = on_map(found, judge)
        rows.append(
            [*cells, measured.gain() if measured else "", "" if at is None else f"{at:+.1f}"]
        )
    return markdown(head, rows)


def on_map(gains: Mapping[str, Interval], judge: Mapping[str, Any]) -> float | None:
    """The mean gain of simulated judges at a judge's precision and recall, by bilinear
    interpolation; None: outside of the map, or runs are missing."""
    (p0, p1, across), (r0, r1, along) = (_cell(judge[name]) for name in ("precision", "recall"))
    corners = [gains.get(errors_name(p, r)) for p in (p0, p1) for r in (r0, r1)]
    if not RATES[0] <= min(judge["precision"], judge["recall"]):
        return None
    means = [corner.mean for corner in corners if corner]
    if len(means) < len(corners):
        return None
    low, high = (means[i] + along * (means[i + 1] - means[i]) for i in (0, 2))
    return low + across * (high - low)


def _cell(value: float) -> tuple[float, float, float]:
    """The two rates around a value, and how far it is between them."""
    upper = next((i for i, rate in enumerate(RATES) if rate >= value), len(RATES) - 1)
    first, second = RATES[max(upper, 1) - 1], RATES[max(upper, 1)]
    return first, second, (value - first) / (second - first)
