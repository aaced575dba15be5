"""Exact votes against sampled ones: step F1, judge tokens, requests and time.

    .venv/bin/capo testbed                             (once)
    .venv/bin/python bench/votes_exact.py              (about fifteen minutes on two cores)
    .venv/bin/python bench/votes_exact.py --quick      (one judge, few rollouts)
    .venv/bin/python bench/votes_exact.py --judges testbed-f60 --add   (adds to an earlier run)

Judges the same rollouts through the real service and vLLM with k sampled critiques, early stopping
on, and with exact votes, in turns. The testbed's judges judge sampled rollouts of its policy to
held-out questions; the embedded judge, those and sums of 20 and 100 steps, for which there is no
F1 that means anything, but tokens and time. The KV cache is kept so small that no setting finds the
prompts of the setting before it. Writes build/bench/votes_exact.json.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from engines import LOGS, OUT, credited
from rich.console import Console
from rich.table import Table
from thinking_testbed import rollouts_of_policy

from capo_client import CreditBatch
from capo_testbed import tasks
from capo_testbed.serving import serving

TESTBED = ("testbed", "testbed-f80", "testbed-f60")
K = (1, 4, 8, 16, 32)
COUNT = 400
ROUNDS = 3
STEPS = (20, 100)
SAMPLED = {f"k = {k}": {"n": k, "critique_style": "verdict"} for k in K}
SETTINGS: dict[str, dict[str, Any]] = {
    **SAMPLED,
    "exact": {"exact": True},
    **{f"average, k = {k}": {**SAMPLED[f"k = {k}"], "method": "average"} for k in (8, 32)},
    "average, exact": {"exact": True, "method": "average"},
    # As critiques are sampled without a nucleus, the judge is least sure.
    "k = 8, temperature 1": {**SAMPLED["k = 8"], "temperature": 1.0, "top_p": 1.0},
    "exact, temperature 1": {"exact": True, "temperature": 1.0, "top_p": 1.0},
}


@dataclass(frozen=True, slots=True)
class Case:
    """Rollouts, and for each of their steps whether it is wrong.

    `blocks`: of 32 tokens, in the judge's KV cache.
    """

    name: str
    judge: str
    rollouts: list[dict[str, Any]]
    wrong: list[list[bool]]
    blocks: int


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: means over all rollouts.

    Attributes:
        completion_tokens: that the judge wrote.
        prompt_tokens: that it read, without those in the prefix cache.
        requests: to the engine.
        seconds: of a rollout; the median of the rounds.
        share_error: mean difference between a step's share of the votes and the exact share; at
            temperature 1, that of an exact majority.
        undecided: share of the rollouts whose exact vote was not decided.
    """

    case: str
    judge: str
    setting: str
    f1: float
    completion_tokens: float
    prompt_tokens: float
    requests: float
    seconds: float
    share_error: float
    undecided: float


def measure(
    count: int = COUNT,
    rounds: int = ROUNDS,
    judges: Sequence[str] = (*TESTBED, "embedded"),
    steps: Sequence[int] = STEPS,
) -> dict[str, Any]:
    """Measure exact and sampled votes.

    Returns:
        `rows`, and `claims` by case: F1 of exact votes less that of k = 32, and their tokens and
        time as parts of those of k = 8.
    """
    claims, rows = {}, []
    for case in _cases(count, judges, steps):
        found = list(_measured(case, rounds))
        claims[case.name] = _claim(found)
        rows += [asdict(row) for row in found]
    return {"rollouts": count, "rounds": rounds, "claims": claims, "rows": rows}


def _cases(count: int, judges: Sequence[str], steps: Sequence[int]) -> Iterator[Case]:
    found = rollouts_of_policy(count)
    sent = [
        {
            "question": each.task.question,
            "response": each.response,
            "outcome": float(tasks.answer_of(each.response) == each.task.answer),
        }
        for each in found
    ]
    wrong = [each.wrong() for each in found]
    for judge in judges:
        some = count if judge != "embedded" else max(count // 4, 8)
        blocks = 1024 if judge == "embedded" else max(3 * count // 2, 256)
        yield Case(judge, judge, sent[:some], wrong[:some], blocks)
    if "embedded" in judges:
        for n in steps:
            made = [_sums(n, number) for number in range(max(count // (2 * n), 4))]
            rollouts, labels = map(list, zip(*made, strict=True))
            yield Case(f"embedded, {n} steps", "embedded", rollouts, labels, 1024)


def _sums(n: int, number: int) -> tuple[dict[str, Any], list[bool]]:
    """A rollout of `n` sums, of which one in ten is wrong."""
    chance = random.Random(f"{n} {number}")
    lines, wrong = [], []
    for _ in range(n):
        a, b = chance.randrange(10, 99), chance.randrange(10, 99)
        wrong.append(chance.random() < 0.1)
        lines.append(f"{a} + {b} = {a + b + wrong[-1]}")
    question = f"Add the {n} pairs of numbers of list {number}."
    return {"question": question, "response": "\n\n".join(lines), "outcome": 1.0}, wrong


def _measured(case: Case, rounds: int) -> Iterator[Row]:
    arguments = json.dumps({"num_gpu_blocks_override": case.blocks})
    log = LOGS / f"votes-exact-{case.name.replace(', ', '-').replace(' ', '-')}.log"
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    last: dict[str, CreditBatch] = {}
    with serving(case.judge, log, CAPO_NONCE_SECRET="bench", CAPO_ENGINE_ARGS=arguments) as url:
        for voting in SETTINGS.values():  # compiles the constraints
            credited(url, case.rollouts[:32], voting)
        for _ in range(rounds):
            for name, voting in SETTINGS.items():
                taken, last[name] = credited(url, case.rollouts, voting, include=["critiques"])
                seconds[name].append(taken / len(case.rollouts))
    exact = {False: _shares(last["average, exact"]), True: _shares(last["exact, temperature 1"])}
    for name, batch in last.items():
        yield _row(case, name, batch, median(seconds[name]), exact["temperature" in name])


def _row(
    case: Case, setting: str, batch: CreditBatch, seconds: float, exact: Sequence[float]
) -> Row:
    hits = named = actual = 0
    for labels, credit in zip(case.wrong, batch.credited, strict=True):
        for step, wrong in zip(credit.steps, labels, strict=True):
            hits += step.wrong and wrong
            named += step.wrong
            actual += wrong
    count, usage = len(case.rollouts), batch.usage
    errors = [abs(one - other) for one, other in zip(_shares(batch), exact, strict=True)]
    return Row(
        case.name,
        case.judge,
        setting,
        f1=2 * hits / max(named + actual, 1),
        completion_tokens=usage.completion_tokens / count,
        prompt_tokens=(usage.prompt_tokens - usage.cached_tokens) / count,
        requests=usage.critiques_run / count,
        seconds=seconds,
        share_error=sum(errors) / len(errors),
        undecided=sum(not each.exact.decided for each in batch.credited if each.exact) / count,
    )


def _shares(batch: CreditBatch) -> list[float]:
    votes = [step.votes for credit in batch.credited for step in credit.steps]
    return [v.wrong / v.valid if v.share is None else v.share for v in votes]


def _claim(rows: Sequence[Row]) -> dict[str, float]:
    by_name = {row.setting: row for row in rows}
    exact, eight, most = by_name["exact"], by_name["k = 8"], by_name["k = 32"]
    average, eight_average = by_name["average, exact"], by_name["average, k = 8"]
    warm, eight_warm = by_name["exact, temperature 1"], by_name["k = 8, temperature 1"]
    return {
        "f1_over_k32": exact.f1 - most.f1,
        "tokens_over_k8": exact.completion_tokens / eight.completion_tokens,
        "time_over_k8": exact.seconds / eight.seconds,
        "average_tokens_over_k8": average.completion_tokens / eight_average.completion_tokens,
        "average_time_over_k8": average.seconds / eight_average.seconds,
        "temperature_1_tokens_over_k8": warm.completion_tokens / eight_warm.completion_tokens,
        "temperature_1_time_over_k8": warm.seconds / eight_warm.seconds,
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    columns = ("judge", "votes", "step F1", "requests", "written", "read", "ms", "error", "open")
    table = Table(*columns, title="exact and sampled votes; means of a rollout")
    for row in found["rows"]:
        table.add_row(
            row["case"],
            row["setting"],
            f"{row['f1']:.3f}",
            f"{row['requests']:.2f}",
            f"{row['completion_tokens']:.1f}",
            f"{row['prompt_tokens']:.0f}",
            f"{1000 * row['seconds']:.1f}",
            f"{row['share_error']:.3f}",
            f"{row['undecided']:.2f}",
        )
    console = Console(width=120)
    console.print(table)
    for name, claim in found["claims"].items():
        console.print(name, {key: round(value, 3) for key, value in claim.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=COUNT)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--judges", default=",".join((*TESTBED, "embedded")))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--add", action="store_true", help="keep other judges' rows in the file")
    options = parser.parse_args()
    if options.quick:
        found = measure(24, 1, ("testbed-f60",), ())
    else:
        found = measure(options.rollouts, options.rounds, options.judges.split(","))
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "votes_exact.json"
    if options.add and path.exists():
        kept = json.loads(path.read_text())
        others = [row for row in kept["rows"] if row["case"] not in found["claims"]]
        found["rows"] = others + found["rows"]
        found["claims"] = kept["claims"] | found["claims"]
    path.write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
