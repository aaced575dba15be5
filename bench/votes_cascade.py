"""Cascades of votes: a few cheap verdicts first, and more only where they disagree.

    .venv/bin/capo testbed --thinking                  (once)
    .venv/bin/python bench/votes_cascade.py            (about ten minutes on two cores)

The critiques of each judge are sampled once, through the service's pipeline and vLLM, and kept in
build/bench/votes_critiques.json; every policy is then computed from them, each critique standing
at each place of the order equally often. Writes build/bench/votes_cascade.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cascade_policies import Judged, Policy, Row, cascades, compare, plain
from early_stop_thinking import Bench
from engines import OUT
from rich.console import Console
from rich.table import Table
from thinking_testbed import rollouts_of_policy

import capo_wire as wire
from capo_service.engine.local_models import local_model
from capo_testbed import tasks
from capo_testbed.common import Solution

THINKER = "testbed-thinking"
CRITIQUES = OUT / "votes_critiques.json"
COUNT = 400
# (judge, thinking budget): critiques of each rollout.
SAMPLED = {
    ("testbed", 0): 16,
    ("testbed-f80", 0): 16,
    ("testbed-f60", 0): 16,
    (THINKER, 0): 16,
    (THINKER, 64): 4,
}
PAIRS = (("testbed-f60", "testbed"), ("testbed-f80", "testbed"))  # cheap and better judge


def measure(
    count: int = COUNT, path: Path = CRITIQUES, judges: Sequence[str] = ()
) -> dict[str, Any]:
    """F1 and tokens of each policy, and the cascades that win.

    Args:
        count: rollouts.
        path: where critiques are kept; those of this number of rollouts are sampled if missing.
        judges: those that are measured; empty: all that are on this machine.
    """
    found = critiques(count, path, judges)
    sampled = {
        name: [Judged.of(each) for each in given] for name, given in found["critiques"].items()
    }
    rows: list[Row] = []
    for name, policies in settings(sampled):
        rows += compare(name, found["wrong"], sampled, policies)
    return {
        "rollouts": len(found["wrong"]),
        "wrong_steps": sum(map(sum, found["wrong"])),
        "wins": [row.policy for row in rows if row.wins],
        "rows": [asdict(row) for row in rows],
    }


def settings(sampled: dict[str, list[Judged]]) -> Iterator[tuple[str, list[Policy]]]:
    """What is compared with what: a judge, or two of them, and the policies."""
    for name in sampled:
        judge, _, budget = name.partition("@")
        if budget == "0":
            thoughts = f"{judge}@64" if f"{judge}@64" in sampled else None
            yield judge, [*plain(name, thoughts), *cascades(name, thoughts)]
    for cheap, better in PAIRS:
        first, second = f"{cheap}@0", f"{better}@0"
        if first in sampled and second in sampled:
            yield f"{cheap}, then {better}", [*plain(first, second), *cascades(first, second)]


def critiques(count: int, path: Path, judges: Sequence[str] = ()) -> dict[str, Any]:
    """The critiques of all judges, sampled where the file lacks them."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    solutions: list[Solution] | None = None
    if found.get("count") != count:
        solutions = rollouts_of_policy(count)
        found = {"count": count, "wrong": [each.wrong() for each in solutions], "critiques": {}}
    for (judge, budget), k in SAMPLED.items():
        name = f"{judge}@{budget}"
        if name in found["critiques"] or (judges and judge not in judges) or not on_disk(judge):
            continue
        solutions = solutions or rollouts_of_policy(count)
        found["critiques"][name] = asyncio.run(sample(judge, budget, k, solutions))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    return found


def on_disk(judge: str) -> bool:
    try:
        local_model(judge)
    except ValueError as error:
        print(f"skipped: {judge}: {error}")
        return False
    return True


async def sample(
    judge: str, budget: int, k: int, solutions: Sequence[Solution]
) -> list[list[dict[str, Any]]]:
    """k critiques of each solution, without early stopping."""
    given = [
        wire.Rollout(
            question=each.task.question,
            response=each.response,
            outcome=float(tasks.answer_of(each.response) == each.task.answer),
        )
        for each in solutions
    ]
    voting = wire.Voting(n=k, early_stop=False, thinking_tokens=budget, seed=1)
    bench = Bench(judge)
    await bench.start()
    try:
        judged = await bench.judge(given, voting)
    finally:
        await bench.close()
    return [
        [
            {
                "wrong": None if each.verdict.wrong is None else sorted(each.verdict.wrong),
                "tokens": each.completion.completion_tokens,
                "prompt": each.completion.prompt_tokens,
            }
            for each in ballots
        ]
        for _, ballots in judged
    ]


def show(found: dict[str, Any]) -> None:
    columns = ("judge", "policy", "step F1", "95%", "tokens", "uncached prompt", "steps")
    table = Table(*columns, "escalated", "best plain", "difference, 95%", "its tokens", "wins")
    for row in found["rows"]:
        low, high = row["f1_interval"]
        table.add_row(
            row["judge"],
            row["policy"],
            f"{row['f1']:.3f}",
            f"{low:.3f} to {high:.3f}",
            *(f"{row[name]:.1f}" for name in ("tokens", "prompt", "steps")),
            f"{row['escalated']:.2f}",
            row["against"] or "",
            "" if not row["against"] else "{:+.3f} to {:+.3f}".format(*row["difference"]),
            "" if not row["against"] else f"{row['against_tokens']:.1f}",
            "yes" if row["wins"] else "",
        )
    Console(width=170).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=COUNT)
    parser.add_argument("--critiques", type=Path, default=CRITIQUES)
    parser.add_argument("--judge", action="append", default=[])
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as scratch:
            show(measure(8, Path(scratch) / "critiques.json", options.judge))
        return
    found = measure(options.rollouts, options.critiques, options.judge)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "votes_cascade.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
