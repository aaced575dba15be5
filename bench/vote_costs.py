"""Parts of bench/service.py: what votes cost, and what early stopping saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from early import token_ratios
from engines import credited
from running import K, Running

from capo_client import CreditBatch

STYLES = ("verdict", "brief", "full")
COSTS: dict[str, dict[str, Any]] = {
    "1": {"n": 1},
    "4": {"n": 4, "early_stop": False},
    "16": {"n": 16, "early_stop": False},
    "16, early stopping, majority": {"n": 16},
    "16, early stopping, intersection": {"n": 16, "method": "intersection"},
}
STOPPING_JUDGES = ("embedded", "testbed", "testbed-f60")


def votes(run: Running) -> dict[str, Any]:
    """Styles side by side; and what more votes cost than one, in turns."""
    url = run.service("embedded")
    found: dict[str, Any] = {}
    majorities = {}
    asked = run.made.groups(1, run.sizes.group)
    for style in STYLES:
        voting = {"n": K, "early_stop": False, "seed": 1, "critique_style": style}
        taken, batch = credited(url, asked, voting)
        usage = batch.usage
        found[style] = {
            "tokens": usage.completion_tokens / usage.critiques_run,
            "rollouts_per_s": len(asked) / taken,
            "agreement_within": within(batch),
        }
        majorities[style] = [[step.wrong for step in each.steps] for each in batch.credited]
        print(f"  {style}: {found[style]}", flush=True)
    between = {
        f"{a}-{b}": agree(majorities[a], majorities[b])
        for a, b in zip(STYLES, STYLES[1:] + STYLES[:1], strict=True)
    }
    runs: dict[str, list[float]] = {name: [] for name in COSTS}
    for _ in range(run.sizes.rounds):
        for name, voting in COSTS.items():
            rollouts = run.made.groups(1, run.sizes.group)
            seconds, _ = credited(url, rollouts, voting | {"critique_style": "verdict"})
            runs[name].append(seconds)
    costs = {name: run.median(each) / run.median(runs["1"]) for name, each in runs.items()}
    return {
        "styles": found,
        "agreement_between": between,
        "vote_cost": costs,
        "vote_cost_4": costs["4"],
        "vote_cost_16": costs["16"],
    }


def early_stop(run: Running) -> dict[str, Any]:
    """Tokens sampled with early stopping, of those of the full vote: computed, and live.

    Half of the stories are right. From recorded critiques it is computed as if the engine were
    busy, with waves; live, critiques start as this machine's engine has room for them.
    """
    found: dict[str, Any] = {}
    size = run.sizes.recorded // 4
    for judge in STOPPING_JUDGES:
        url = run.service(judge)
        rollouts = run.made.groups(4, size, 0.5)
        _, full = credited(url, rollouts, {"n": 16, "early_stop": False}, include=["critiques"])
        found[judge] = token_ratios(full)
        live = {}
        for method in ("intersection", "majority"):
            voting = {"method": method, "n": K, "seed": 7}
            rollouts = run.made.groups(4, size, 0.5)
            _, every = credited(url, rollouts, voting | {"early_stop": False})
            _, some = credited(url, rollouts, voting)
            same = [
                [step.wrong for step in a.steps] == [step.wrong for step in b.steps]
                for a, b in zip(every.credited, some.credited, strict=True)
            ]
            live[method] = {
                "token_ratio": some.usage.completion_tokens / every.usage.completion_tokens,
                "same_verdicts": sum(same) / len(same),
                "rollouts": len(same),
            }
        found[f"{judge}_live"] = live
        print(f"  {judge}: {live}", flush=True)
    at_four = {method: ratios[K - 1] for method, ratios in found["testbed"].items()}
    return {"early_stop_token_ratio": at_four, "early_stop": found}


def within(batch: CreditBatch) -> float:
    """Mean over steps of the share of critiques on the larger side."""
    shares = [
        max(step.votes.wrong, step.votes.valid - step.votes.wrong) / step.votes.valid
        for each in batch.credited
        for step in each.steps
    ]
    return sum(shares) / len(shares)


def agree(one: Sequence[Sequence[bool]], other: Sequence[Sequence[bool]]) -> float:
    pairs = [a == b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(pairs) / len(pairs)
