"""Precision and recall of the arithmetic checker on steps with equations. Needs no service.

    make bench-symbolic DATA=FOLDER     # a table, and build/bench/symbolic.json

DATA is a folder with big_bench_mistake_multistep_arithmetic.jsonl, gsm8k_train.jsonl and
gsm8k_test.jsonl; by default the one beside the repository. Labels of BIG-Bench Mistake are of the
first wrong step, so steps behind it are not counted. A third of the solutions labelled as without
a mistake have a wrong final answer: their labels contradict themselves, and what is counted
without them is told apart. Each equation that is called false is evaluated again, by Python's own
arithmetic on fractions.
"""

from __future__ import annotations

import json
import os
import re
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

from engines import OUT
from rich.console import Console
from rich.table import Table

from capo_service.core.arithmetic import Equation, equations, false_equations

DATA = Path(os.environ.get("DATA", Path(__file__).parents[2] / "shared" / "data"))
_PLAIN = re.compile(r"[-+*/() \d.]+")


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def truly_false(equation: Equation) -> bool | None:
    """By Python's own parser and operators; None for what is more than plain arithmetic."""
    if not (_PLAIN.fullmatch(equation.left) and _PLAIN.fullmatch(equation.right)):
        return None

    def value(text: str) -> Fraction:
        exact = re.sub(r"\d+(?:\.\d+)?", lambda number: f"Fraction('{number[0]}')", text)
        return Fraction(eval(exact, {"__builtins__": {}, "Fraction": Fraction}))  # a bench's own

    return value(equation.left) != value(equation.right)


def labelled() -> dict[str, Any]:
    counts = {"all labels": [0, 0, 0], "labels that do not contradict themselves": [0, 0, 0]}
    checked = confirmed = behind = 0
    for record in lines("big_bench_mistake_multistep_arithmetic.jsonl"):
        first = record["mistake_index"]
        odd = first is None and record["answer"].strip() != record["target"].strip()
        for index, step in enumerate(record["steps"]):
            found = false_equations(step)
            for equation in found:
                truth = truly_false(equation)
                checked += truth is not None
                confirmed += truth is True
            if first is not None and index > first:
                behind += bool(found)
                continue
            wrong = index == first
            for name, tally in counts.items():
                if name == "all labels" or not odd:
                    tally[0] += bool(found) and wrong
                    tally[1] += bool(found) and not wrong
                    tally[2] += wrong and not found
    told = {
        name: {"hits": hit, "false": false, "missed": missed, "precision": hit / (hit + false),
               "recall": hit / (hit + missed)}
        for name, (hit, false, missed) in counts.items()
    }  # fmt: skip
    return told | {"false equations evaluated again": checked, "of these false": confirmed,
                   "steps named behind the first error": behind}  # fmt: skip


def human() -> dict[str, Any]:
    """On solutions that people wrote to be right: how often it speaks, and what it calls false."""
    steps = spoken = 0
    named: list[str] = []
    begun = time.perf_counter()
    for name in ("gsm8k_train.jsonl", "gsm8k_test.jsonl"):
        for record in lines(name):
            for step in record["answer"].splitlines():
                found = equations(step)
                steps += 1
                spoken += bool(found)
                if any(not equation.holds for equation in found):
                    named.append(step)
    seconds = time.perf_counter() - begun
    return {"steps": steps, "it speaks of": spoken, "called wrong": len(named),
            "microseconds a step": 1e6 * seconds / steps, "these": named}  # fmt: skip


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {shown(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "\n".join(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    found = {"BIG-Bench Mistake": labelled(), "GSM8K's solutions": human()}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "symbolic.json").write_text(json.dumps(found, indent=2) + "\n")
    table = Table("data", "", "measured")
    for data, told in found.items():
        for name, value in told.items():
            table.add_row(data, name, shown(value))
    Console().print(table)


if __name__ == "__main__":
    main()
