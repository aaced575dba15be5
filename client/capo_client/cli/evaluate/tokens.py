"""What a judge's votes cost in tokens, and which of them no other beats.

The critiques of a rollout share its prompt, which the judge computes once while it is cached. So
the tokens that are computed for k critiques are estimated from those for all of them: the same, but
at most k prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import capo_wire as wire

Result = Mapping[str, Any]
_COMPARED = ("majority", "greedy")  # the methods whose costs are compared


def of_votes(results: Sequence[Result], k: float) -> dict[str, float]:
    """Mean judge tokens of a rollout for a vote of `k` critiques.

    `prompt_tokens` includes `cached_tokens`, and `completion_tokens` includes `thinking_tokens`.
    Rollouts that were not judged are left out.

    Args:
        results: the service's result for each rollout.
        k: critiques of a vote, at most as many as were sampled.
    """
    usages = [result["usage"] for result in results if result["status"] == "ok"]
    total = sum((wire.Usage.model_validate(usage) for usage in usages), wire.Usage())
    share = k / max(total.critiques_run, 1)
    prompt = share * total.prompt_tokens
    computed = (total.prompt_tokens - total.cached_tokens) / max(len(usages), 1)
    return {
        "prompt_tokens": prompt,
        "cached_tokens": prompt - min(computed, prompt),
        "completion_tokens": share * total.completion_tokens,
        "thinking_tokens": share * total.thinking_tokens,
    }


def thoughts(results: Sequence[Result]) -> dict[str, float | None]:
    """The thoughts before the judge's critiques.

    Returns:
        `mean_tokens`: their mean length. `truncated`: the share that reached the thinking budget.
        `readable`: the share of the critiques that have a verdict. All None without a critique.
    """
    critiques = [
        critique
        for result in results
        for critique in result.get("critiques", ())
        if critique.get("critic") != "symbolic"
    ]
    sums = {
        "mean_tokens": sum(each.get("thinking_tokens", 0) for each in critiques),
        "truncated": sum(each.get("thinking_truncated", False) for each in critiques),
        "readable": sum(each["valid"] for each in critiques),
    }
    return {name: value / len(critiques) if critiques else None for name, value in sums.items()}


def compared(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """F1 and tokens of every style, budget and k, for majority votes and the greedy critique.

    `efficient`: no other row has at least this F1 for at most these completion tokens, and is
    better in one of the two.
    """
    rows = [
        {
            "style": report["style"],
            "thinking_budget": report["thinking_budget"],
            "method": line["method"],
            "k": line["k"],
            "f1": line["f1"],
            "interval": line["intervals"]["f1"],
            **line["tokens"],
        }
        for report in reports
        for line in report["table"]
        if line["method"] in _COMPARED and line["f1"] is not None
    ]
    return [row | {"efficient": not any(_beats(other, row) for other in rows)} for row in rows]


def _beats(other: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    gain = other["f1"] - row["f1"]
    saved = row["completion_tokens"] - other["completion_tokens"]
    return bool(gain >= 0 and saved >= 0 and (gain or saved))
