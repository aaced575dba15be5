"""How often the outcome is right: ours, and plain math-verify with the reference in a box.

    make bench-outcome DATA=FOLDER     # a table, and build/bench/outcome.json

DATA is a folder with math500_even.jsonl, math_model_responses.jsonl, verify_cases.jsonl and
gsm8k_model_solutions.jsonl; by default the one next to the repository. Without it, only the
examples of docs/outcome.md are run. The baseline is what verl and most trainers do:
`verify(parse("\\\\boxed{reference}"), parse(response))` with math-verify's own defaults.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import math_verify
from engines import OUT
from rich.console import Console
from rich.table import Table

from capo_wire.answers.compare import UnreadableReferenceError, verify

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("DATA", ROOT.parent / "shared" / "data"))
_EXAMPLE = re.compile(r"^\| `(.+)` \| `(.+)` \| (yes|no) \|$", re.M)
# What a reference begins with, where more than a unit follows.
_LEADING = re.compile(r"(-?\d+)(?=\D)(?!\s*(?:\^\{?\\circ|\\text|\\mbox|[.,]\d|,\\!))")

Pair = tuple[str, str, bool]  # reference, response, whether it is right


def lines(name: str) -> list[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def math500() -> Iterator[tuple[str, Pair]]:
    rows = lines("math500_even.jsonl")
    for position, row in enumerate(rows):
        answer = row["answer"]
        yield "math500_same", (answer, f"\\boxed{{{answer}}}", True)
        yield "math500_solution", (answer, row["solution"], True)
        yield "math500_solution_as_reference", (row["solution"], f"\\boxed{{{answer}}}", True)
        other = rows[(position + 1) % len(rows)]["answer"]
        if other != answer:
            yield "math500_other", (answer, f"\\boxed{{{other}}}", False)
        if leading := _LEADING.match(answer):
            yield "math500_part", (answer, f"\\boxed{{{leading[1]}}}", False)


def pairs() -> Iterator[tuple[str, Pair]]:
    for reference, response, right in _EXAMPLE.findall((ROOT / "docs/outcome.md").read_text()):
        yield "documented_examples", (reference, response.replace("↵", "\n"), right == "yes")
    if not DATA.is_dir():
        return
    yield from math500()
    for row in lines("math_model_responses.jsonl"):
        for response, right in zip(row["responses"], row["is_correct"], strict=True):
            yield "model_responses", (row["answer"], response, right)
    for row in lines("verify_cases.jsonl"):
        if row["right"] is not None:
            yield "cases", (row["reference"], row["response"], row["right"])
    for row in lines("gsm8k_model_solutions.jsonl"):
        for solution in row.values():
            if isinstance(solution, dict):
                yield "gsm8k", (row["ground_truth"], solution["solution"], solution["is_correct"])


def ours(reference: str, response: str) -> bool | None:
    try:
        return verify(response, reference).right
    except UnreadableReferenceError:
        return None


def plain(reference: str, response: str) -> bool | None:
    gold = math_verify.parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
    found = math_verify.parse(response, parsing_timeout=None)
    return math_verify.verify(gold, found, timeout_seconds=None) if gold else None


def main() -> None:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    counts: dict[str, dict[str, int]] = {}
    seconds = {"ours": 0.0, "math_verify": 0.0}
    for name, (reference, response, right) in pairs():
        count = counts.setdefault(name, {"pairs": 0, "ours": 0, "math_verify": 0})
        count["pairs"] += 1
        for who, decide in (("ours", ours), ("math_verify", plain)):
            begun = time.perf_counter()
            count[who] += decide(reference, response) is right
            seconds[who] += time.perf_counter() - begun
    table = Table("set", "pairs", "ours", "plain math-verify")
    for name, count in counts.items():
        shares = [f"{count[who] / count['pairs']:.1%}" for who in ("ours", "math_verify")]
        table.add_row(name, str(count["pairs"]), *shares)
    Console().print(table)
    total = sum(count["pairs"] for count in counts.values())
    each = {who: 1000 * spent / total for who, spent in seconds.items()}
    print(f"ms a pair: {each['ours']:.2f}, plain math-verify {each['math_verify']:.2f}")
    result: dict[str, Any] = {
        name: count["ours"] / count["pairs"] for name, count in counts.items()
    }
    result |= {"counts": counts, "milliseconds": each}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "outcome.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
