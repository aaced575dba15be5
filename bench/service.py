"""The judge's engine alone, this service around it, and what a user would write instead.

    make bench-service       # a table, plots, and build/bench/service.json; 10 to 15 minutes

On the embedded model, with the same rollouts, prompts and sampling: vLLM's `LLM(model=...)` with
its own arguments and `POST /credit`, in turns. Then what shared prompts and early stopping save,
what more votes cost, and how long callers wait. On the testbed's judge: early stopping with a judge
that is good and one that is not, and a script that asks a vLLM server, at equal step F1
(bench/script_comparison.py). Rollouts are the testbed's stories, or steps of a file (--data). What
the numbers mean is in docs/performance.md. `--part` measures some of it and keeps the rest; --quick
shows that everything runs, and its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plots
import script_comparison
from engines import OUT, bare, credited, metric
from latency import callers, loop_of, merged
from running import FULL_VOTE, QUICK, SIZES, K, Running, Source
from service_report import show, updated
from vote_costs import early_stop, votes

PAGE = Path("docs/performance.md")


@dataclass(frozen=True, slots=True)
class Part:
    """Something to measure, and the judges that it is the last to need."""

    measure: Callable[[Running], dict[str, Any]]
    last_of: tuple[str, ...] = ()


def overhead(run: Running) -> dict[str, Any]:
    """Bare engine and service in turns, with the same questions in each round."""
    bare_rates, rates, rollout_rates, loops = [], [], [], []
    voting = FULL_VOTE | {"critique_style": "brief"}
    url = run.service("embedded")
    with bare("brief") as generate:
        warm = run.made.groups(1, 1)
        generate(warm, voting | {"n": 1})
        credited(url, warm, voting | {"n": 1})
        for turn in range(run.sizes.rounds):
            rollouts = run.made.groups(1, run.sizes.group)
            asked = voting | {"seed": turn}
            alone = generate(rollouts, asked)
            with loop_of(url) as loop:
                seconds, batch = credited(url, rollouts, asked)
            loops.append(loop)
            bare_rates.append(alone["tokens"] / alone["seconds"])
            rates.append(batch.usage.completion_tokens / seconds)
            rollout_rates.append(len(rollouts) / seconds)
            print(f"  {bare_rates[-1]:.1f} {rates[-1]:.1f} tokens/s", flush=True)
    usage = batch.usage
    length = sum(len(each["response"]) for each in rollouts) / 4
    shares = [a / b for a, b in zip(rates, bare_rates, strict=True)]
    read = usage.prompt_tokens - usage.cached_tokens
    return {
        "engine_arguments": generate.arguments,
        "engine_limits": generate.limits,
        "engine_seeds": generate.seeds,
        "engine_tokens_per_s": run.median(bare_rates),
        "service_tokens_per_s": run.median(rates),
        "overhead_ratio": run.median(shares),
        "overhead_ratios": shares,
        "service_rollouts_per_s": run.median(rollout_rates),
        "judge_tokens_per_rollout_token": (read + usage.completion_tokens) / length,
        **merged(loops).report(),
    }


def prefix(run: Running) -> dict[str, Any]:
    """By the engine's own counters, over a group of 16 rollouts of a question."""
    url = run.service("embedded")
    names = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
    found: dict[str, Any] = {}
    for k in (1, K):
        before = [metric(url, name) for name in names]
        voting = {"n": k, "early_stop": False, "critique_style": "verdict"}
        _, batch = credited(url, run.made.groups(1, 16), voting)
        hits, asked = (metric(url, n) - b for n, b in zip(names, before, strict=True))
        found[f"prefix_hit_ratio{'' if k == K else '_1'}"] = hits / asked
        found["prefix_hit_ratio_told"] = batch.usage.cached_tokens / batch.usage.prompt_tokens
    return found


def latency(run: Running) -> dict[str, Any]:
    """Single rollouts, so many callers at once, each sending the next when it is answered."""
    found, loops = [], []
    url = run.service("embedded")
    voting = {"n": K, "critique_style": "verdict"}
    for count in run.sizes.callers:
        rollouts = run.made.groups(max(count // 2, run.sizes.alone // 4 if count == 1 else 2), 4)
        with loop_of(url) as loop:
            found.append(callers(url, rollouts, count, voting))
        loops.append(loop)
        print(f"  {found[-1]}", flush=True)
    return {
        "concurrency": found,
        "p50_ms": found[0]["p50_ms"],
        "p99_ms": found[0]["p99_ms"],
        "latency_loop": merged(loops).report(),
    }


def script(run: Running) -> dict[str, Any]:
    """A script that asks a vLLM server, and this service, with the same judge and step F1."""
    with loop_of(url := run.service("testbed")) as loop:
        found = script_comparison.measure(url, run.sizes.stories, run.sizes.rounds)
    script_comparison.show(found)
    kept = ("equal_quality_speedup", "equal_quality_speedups", "tuned_script_speedup")
    return {name: found[name] for name in kept} | {"script": found | {"loop": loop.report()}}


PARTS = {
    "overhead": Part(overhead),
    "prefix": Part(prefix),
    "votes": Part(votes),
    "latency": Part(latency),
    "early_stop": Part(early_stop, ("embedded", "testbed-f60")),
    "script": Part(script, ("testbed",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable; all by default")
    parser.add_argument("--data", type=Path, help="JSON lines with `input` and `steps`")
    parser.add_argument("--quick", action="store_true", help="a few rollouts of everything")
    parser.add_argument(
        "--docs",
        action="store_true",
        help="only write the last run's tables to docs/performance.md",
    )
    args = parser.parse_args()
    path = OUT / ("service_quick.json" if args.quick else "service.json")
    OUT.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = json.loads(path.read_text()) if args.part and path.exists() else {}
    if args.docs:
        PAGE.write_text(updated(PAGE.read_text("utf-8"), json.loads(path.read_text())), "utf-8")
        return
    started = time.monotonic()
    with closing(Running(Source(args.data), QUICK if args.quick else SIZES)) as run:
        for name in args.part or PARTS:
            print(f"measuring: {name} ({time.monotonic() - started:.0f} s)", flush=True)
            report |= PARTS[name].measure(run)
            report["cores"] = os.cpu_count()
            path.write_text(json.dumps(report, indent=2) + "\n")
            for judge in PARTS[name].last_of:
                run.stop(judge)
    if not args.part:
        report["seconds"] = time.monotonic() - started
        path.write_text(json.dumps(report, indent=2) + "\n")
    if not args.quick:
        plots.draw(report, OUT)
    show(report)


if __name__ == "__main__":
    main()
