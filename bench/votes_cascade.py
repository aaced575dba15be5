"""Cascades of votes: a few cheap verdicts first, and more only where they disagree.

    .venv/bin/capo testbed --thinking                  (once)
    .venv/bin/python bench/votes_cascade.py            (about fifteen minutes on two cores)

The critiques of each judge are sampled once, through the service's pipeline and vLLM, and kept in
build/bench/votes_critiques.json; every policy is then computed from them, each critique standing
at each place of the order equally often. `many` are sampled rollouts to 400 held-out questions, one
of each; `check` are four of each of 200, on which what seems to win is tried again. Writes
build/bench/votes_cascade.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from cascade_policies import Judged, Policy, cascades, plain, unsure
from cascade_rows import compare
from early_stop_thinking import Bench
from engines import OUT
from group_judge import sampled_groups
from rich.console import Console
from rich.table import Table
from thinking_testbed import rollouts_of_policy
from transformers import AutoTokenizer, LlamaForCausalLM

import capo_wire as wire
from capo_service.engine.local_models import local_model
from capo_service.pipeline.critics import Ballot
from capo_testbed import tasks
from capo_testbed.common import Solution, held_out_tasks
from capo_trainer.paths import testbed_folder

THINKER = "testbed-thinking"
CRITIQUES = OUT / "votes_critiques.json"
COUNT = 400
LIKELIEST = "likeliest"  # in place of a budget: the greedy verdict, with its probability
# For each set: "JUDGE@BUDGET" -> critiques of each rollout.
SAMPLED = {
    "many": {
        "testbed@0": 16,
        "testbed-f80@0": 16,
        "testbed-f60@0": 16,
        f"{THINKER}@0": 16,
        f"{THINKER}@64": 4,
        f"{THINKER}@{LIKELIEST}": 1,
    },
    "check": {f"{THINKER}@0": 4, f"{THINKER}@64": 1, f"{THINKER}@{LIKELIEST}": 1},
}
PAIRS = (("testbed-f60", "testbed"), ("testbed-f80", "testbed"))  # cheap and better judge

Sampled = dict[str, list[Judged]]


def measure(
    count: int = COUNT, path: Path = CRITIQUES, judges: Sequence[str] = ()
) -> dict[str, Any]:
    """F1 and tokens of each policy, and the cascades that win.

    Args:
        count: rollouts of `many`; `check` has twice as many.
        path: where critiques are kept; those of this number of rollouts are sampled if missing.
        judges: those that are measured; empty: all that are on this machine.
    """
    found, rows = critiques(count, path, judges), {}
    for name, each in found["sets"].items():
        sampled = {
            source: [Judged.of(given) for given in of_judge]
            for source, of_judge in each["critiques"].items()
        }
        rows[name] = [
            row
            for judge, sources, policies in settings(sampled)
            for row in compare(judge, each["wrong"], sources, policies, each["questions"])
        ]
    wins = {
        name: {(row.judge, row.policy) for row in of_set if row.wins}
        for name, of_set in rows.items()
    }
    return {
        "rollouts": {name: len(each["wrong"]) for name, each in found["sets"].items()},
        "wrong_steps": {name: sum(map(sum, each["wrong"])) for name, each in found["sets"].items()},
        # A policy that was chosen on `many` has to win on `check` too, where that can be.
        "wins": sorted(won for won in wins["many"] if won[0] != THINKER or won in wins["check"]),
        "rows": {name: [asdict(row) for row in of_set] for name, of_set in rows.items()},
    }


def settings(sampled: Sampled) -> Iterator[tuple[str, Sampled, list[Policy]]]:
    """What is compared with what: a judge, or two of them, and the policies."""
    for name in sampled:
        judge, _, budget = name.partition("@")
        if budget != "0":
            continue
        sources = {each: given for each, given in sampled.items() if each.startswith(f"{judge}@")}
        better = f"{judge}@64" if f"{judge}@64" in sources else None
        yield judge, sources, policies_of(sources, name, better)
    for cheap, better in PAIRS:
        names = (f"{cheap}@0", f"{better}@0")
        if all(each in sampled for each in names):
            sources = {each: sampled[each] for each in names}
            yield f"{cheap}, then {better}", sources, policies_of(sources, *names)


def policies_of(sources: Sampled, first: str, better: str | None) -> list[Policy]:
    counts = {name: len(given[0].critiques) for name, given in sources.items()}
    found = [*plain(counts), *cascades(counts, first, better)]
    likeliest = first.partition("@")[0] + f"@{LIKELIEST}"
    if better and likeliest in sources:
        found += unsure(likeliest, better)
    return found


def critiques(count: int, path: Path, judges: Sequence[str] = ()) -> dict[str, Any]:
    """The critiques of all judges, sampled where the file lacks them."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    solutions = {}
    if found.get("count") != count:
        found = {"count": count, "sets": {}}
    if any(name not in found["sets"] or missing(found, name, judges) for name in SAMPLED):
        solutions = {"many": rollouts_of_policy(count), "check": grouped_rollouts(count // 2)}
    for name, given in solutions.items():
        asked = {each.task.question: number for number, each in enumerate(given)}
        order = sorted(asked.values())
        new = {
            "wrong": [each.wrong() for each in given],
            "questions": [order.index(asked[each.task.question]) for each in given],
            "critiques": {},
        }
        found["sets"].setdefault(name, new)
    for name, given in solutions.items():
        for source in missing(found, name, judges):
            judge, _, budget = source.partition("@")
            critiqued = asyncio.run(sample(judge, budget, SAMPLED[name][source], given))
            found["sets"][name]["critiques"][source] = critiqued
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found))
    return found


def missing(found: Mapping[str, Any], name: str, judges: Sequence[str]) -> list[str]:
    """The sources of a set that were not sampled, but can be."""
    have = found["sets"].get(name, {"critiques": {}})["critiques"]
    return [
        source
        for source in SAMPLED[name]
        if source not in have
        and (not judges or source.partition("@")[0] in judges)
        and on_disk(source.partition("@")[0])
    ]


def grouped_rollouts(questions: int) -> list[Solution]:
    """Four sampled rollouts of each question."""
    folder = testbed_folder() / "policy"
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    policy = LlamaForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    groups = sampled_groups(policy, tokenizer, held_out_tasks(questions))
    return [each for group in groups for each in group]


def on_disk(judge: str) -> bool:
    try:
        local_model(judge)
    except ValueError as error:
        print(f"skipped: {judge}: {error}")
        return False
    return True


async def sample(
    judge: str, budget: str, k: int, solutions: Sequence[Solution]
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
    bench = Bench(judge)
    await bench.start()
    try:
        if budget == LIKELIEST:
            found = await bench.likeliest(given)
            return [[recorded(ballot) | {"probability": chance}] for ballot, chance in found]
        voting = wire.Voting(n=k, early_stop=False, thinking_tokens=int(budget), seed=1)
        judged = await bench.judge(given, voting)
        return [[recorded(ballot) for ballot in ballots] for _, ballots in judged]
    finally:
        await bench.close()


def recorded(ballot: Ballot) -> dict[str, Any]:
    wrong, completion = ballot.verdict.wrong, ballot.completion
    return {
        "wrong": None if wrong is None else sorted(wrong),
        "tokens": completion.completion_tokens,
        "prompt": completion.prompt_tokens,
    }


def show(found: dict[str, Any]) -> None:
    columns = ("set", "judge", "policy", "step F1", "95%", "tokens", "uncached prompt", "steps")
    table = Table(*columns, "escalated", "best plain", "difference, 95%", "its tokens", "wins")
    for name in found["rows"]:
        for row in found["rows"][name]:
            low, high = row["f1_interval"]
            table.add_row(
                name,
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
