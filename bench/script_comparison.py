"""The service against the script of bench/script.py: the same judge, the same F1, rollouts/s.

    .venv/bin/python bench/script_comparison.py [--rollouts 300] [--rounds 3]

Both judge the same sampled rollouts of the testbed's policy, with the testbed's judge on vLLM: the
script's server with vLLM's defaults and, as `tuned script`, with the engine arguments that the
service gives this judge. Of the service's ways to vote, the fastest counts whose F1 is that of the
script: at most 0.01 lower, and not significantly lower (95%, bootstrap over rollouts).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import script
from engines import OUT, credited, service, vllm_server
from rich.console import Console
from rich.table import Table
from script import Judged
from thinking_testbed import rollouts_of_policy

from capo_service.engine import testbed
from capo_testbed import tasks
from capo_testbed.common import Solution
from capo_testbed.tasks import _NAMES, _THINGS

JUDGE = "testbed"
KS = (4, 8)
# How a user of the service could vote instead of k critiques.
EXACT = "exact votes"
WAYS: dict[str, Callable[[int], dict[str, Any]]] = {
    "early stopping": lambda k: {"n": k},
    EXACT: lambda k: {"exact": True},
}
MOST_LOST = 0.01  # of F1
_SAMPLES = 2000


@dataclass
class Case:
    """One way to judge: what each round took, and hits, named and wrong steps of each rollout."""

    rates: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)

    def add(self, judged: Judged, rollouts: Sequence[Solution]) -> None:
        self.rates.append(len(rollouts) / judged.seconds)
        self.tokens.append(judged.tokens)
        rows = []
        for said, rollout in zip(judged.verdicts, rollouts, strict=True):
            pairs = list(zip(said, rollout.wrong(), strict=True))
            hits = sum(a and b for a, b in pairs)
            rows.append((hits, sum(said), sum(b for _, b in pairs)))
        self.counts.append(np.array(rows))

    def f1(self, chosen: np.ndarray | None = None) -> float:
        """Over all rounds; `chosen`: indices of rollouts."""
        total = sum(self.counts)
        hits, named, wrong = (total if chosen is None else total[chosen]).sum(axis=0)
        return float(2 * hits / max(named + wrong, 1))

    def report(self, n: int) -> dict[str, Any]:
        draws = resampled(len(self.counts[0]))
        values = [self.f1(chosen) for chosen in draws]
        return {
            "rollouts_per_s": median(self.rates),
            "f1": self.f1(),
            "f1_95": [float(x) for x in np.quantile(values, (0.025, 0.975))],
            "tokens_per_rollout": median(self.tokens) / n,
        }


def resampled(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, count, count) for _ in range(_SAMPLES)]


def is_as_good(own: Case, theirs: Case) -> bool:
    """Whether the F1 of `own` is that of `theirs`.

    It is at most `MOST_LOST` lower, and 95% of the bootstrap's draws do not all say that it is
    lower.
    """
    draws = resampled(len(own.counts[0]))
    differences = [own.f1(chosen) - theirs.f1(chosen) for chosen in draws]
    is_near = own.f1() - theirs.f1() >= -MOST_LOST
    return is_near and float(np.quantile(differences, 0.975)) >= 0


def measure(url: str, count: int = 300, rounds: int = 3) -> dict[str, Any]:
    """Compare the service at `url`, of the judge `JUDGE`, with the script.

    Returns:
        `equal_quality_speedup`: service over script at k = 8, medians of the rounds' ratios;
        `equal_quality_speedups`: by k; `tuned_script_speedup`: at k = 8, where the script's server
        has the service's engine arguments; and every case.
    """
    rollouts, variants = rollouts_of_policy(count), itertools.count()
    servers = {"script": None, "tuned script": dict(testbed.ARGUMENTS)}
    cases: dict[str, dict[int, Case]] = {name: {k: Case() for k in KS} for name in servers}
    own = {(way, k): Case() for way in WAYS for k in KS if way != EXACT or k == KS[0]}
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(vllm_server(JUDGE, arguments))
            for name, arguments in servers.items()
        }
        for server in running.values():  # all are warm
            asyncio.run(script.judge(server.url, renamed(rollouts[:16], next(variants)), 1))
        for way in WAYS.values():
            by_service(url, renamed(rollouts[:16], next(variants)), way(1))
        for turn in range(rounds):
            for k in KS:
                for name, server in running.items():
                    asked = renamed(rollouts, next(variants))
                    judged = asyncio.run(script.judge(server.url, asked, k))
                    cases[name][k].add(judged, asked)
                for way, voting in WAYS.items():
                    if (way, k) in own:
                        asked = renamed(rollouts, next(variants))
                        own[way, k].add(by_service(url, asked, voting(k)), asked)
            print(f"  round {turn + 1} of {rounds}", flush=True)
    speedups = {
        name: {k: speedup(case, k, own) for k, case in cases[name].items()} for name in cases
    }
    scripts = {
        f"{name}, k = {k}": case.report(len(rollouts))
        for name in cases
        for k, case in cases[name].items()
    }
    services = {
        f"service, {way}{'' if way == EXACT else f', k = {k}'}": case.report(len(rollouts))
        for (way, k), case in own.items()
    }
    return {
        "judge": JUDGE,
        "rollouts": len(rollouts),
        "wrong_steps": sum(sum(rollout.wrong()) for rollout in rollouts),
        "arguments": {name: server.arguments for name, server in running.items()},
        "cases": scripts | services,
        "equal_quality_speedup": speedups["script"][KS[-1]][0],
        "equal_quality_speedups": {str(k): found for k, found in speedups["script"].items()},
        "tuned_script_speedup": speedups["tuned script"][KS[-1]][0],
        "tuned_script_speedups": {str(k): found for k, found in speedups["tuned script"].items()},
    }


def renamed(rollouts: Sequence[Solution], variant: int) -> list[Solution]:
    """The same rollouts with other names and things in the questions: no engine has cached them.

    There are 64 variants. The judge was trained on all names and things.
    """

    def other(words: tuple[str, ...], text: str, shift: int) -> str:
        pattern = re.compile(rf"\b({'|'.join(words)})\b")
        return pattern.sub(lambda m: words[(words.index(m[0]) + shift) % len(words)], text)

    found = []
    for rollout in rollouts:
        question = other(_NAMES, rollout.task.question, variant % len(_NAMES))
        question = other(_THINGS, question, variant // len(_NAMES))
        found.append(replace(rollout, task=replace(rollout.task, question=question)))
    return found


def speedup(theirs: Case, k: int, own: dict[tuple[str, int], Case]) -> tuple[float | None, str]:
    """Of the fastest way to vote that has the script's F1, and that way."""
    found = {
        way: median(a / b for a, b in zip(case.rates, theirs.rates, strict=True))
        for (way, asked), case in own.items()
        if (asked == k or way == EXACT) and is_as_good(case, theirs)
    }
    way = max(found, key=lambda each: found[each], default="")
    return found.get(way), way


def by_service(url: str, rollouts: Sequence[Solution], voting: dict[str, Any]) -> Judged:
    sent = [
        {
            "question": rollout.task.question,
            "response": rollout.response,
            "outcome": float(tasks.answer_of(rollout.response) == rollout.task.answer),
        }
        for rollout in rollouts
    ]
    seconds, batch = credited(url, sent, voting)
    verdicts = [[step.wrong for step in each.steps] for each in batch.credited]
    return Judged(verdicts, seconds, batch.usage.completion_tokens)


def show(found: dict[str, Any]) -> None:
    title = f"{found['rollouts']} rollouts, {found['wrong_steps']} wrong steps, {found['judge']}"
    table = Table("", "rollouts/s", "step F1", "95%", "tokens per rollout", title=title)
    for name, row in found["cases"].items():
        low, high = row["f1_95"]
        table.add_row(
            name,
            f"{row['rollouts_per_s']:.1f}",
            f"{row['f1']:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{row['tokens_per_rollout']:.1f}",
        )
    Console(width=110).print(table)
    for name, key in (("script", "equal_quality_speedups"), ("tuned", "tuned_script_speedups")):
        for k, (ratio, way) in found[key].items():
            said = f"{ratio:.2f} ({way})" if ratio else "no way to vote has its F1"
            print(f"service / {name}, at equal F1, k = {k}: {said}")
    print("The servers of the script were given:", found["arguments"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rollouts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with service("verdict", JUDGE) as url:
        found = measure(url, options.rollouts, options.rounds)
    (OUT / "script.json").write_text(json.dumps(found, indent=2) + "\n")
    show(found)


if __name__ == "__main__":
    main()
