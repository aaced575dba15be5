"""The judge's engine alone, this service around it, and what a user would write instead.

    make bench-service       # a table, plots, and build/bench/service.json

On the embedded model, with the same rollouts, prompts, sampling and seeds: vLLM's `LLM.generate`
and `POST /credit`, in turns; and a script that asks a vLLM server for k free critiques of each
rollout (bench/naive.py). Then what shared prompts and undecided votes save, what more votes cost,
and how long callers wait. Rollouts are the testbed's stories, or steps of a file (--data). What the
numbers mean is in docs/performance.md. `--part` measures some of it and keeps the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import naive
import plots
from early import token_ratios
from engines import LOGS, OUT, Rollouts, bare, credited, loop_blocks, metric, service, vllm_server
from rich.console import Console
from rich.table import Table

from capo_client import AsyncCreditClient, CreditBatch
from capo_testbed import tasks
from capo_testbed.common import make_tasks, stream

ROUNDS, GROUPS, GROUP, K = 3, 2, 16, 4
STYLES = ("verdict", "brief", "full")
FULL_VOTE = {"n": K, "early_stop": False}
NAIVE_TOKENS = 256
SHOWN = {
    "engine_tokens_per_s": "bare engine, tokens/s", "service_tokens_per_s": "service, tokens/s",
    "overhead_ratio": "service / engine", "max_loop_block_ms": "event loop, blocked at most, ms",
    "naive_rollouts_per_s": "script, rollouts/s", "service_rollouts_per_s": "service, rollouts/s",
    "naive_speedup": "service / script", "prefix_hit_ratio": "prompt tokens from the cache",
    "vote_cost_16": "time of k = 16 / k = 1", "p50_ms": "a rollout alone, median ms",
    "p99_ms": "and p99, of forty",
    "judge_tokens_per_rollout_token": "judge tokens / rollout token",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable; all by default")
    parser.add_argument("--data", type=Path, help="JSON lines with `input` and `steps`")
    args = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    path = OUT / "service.json"
    report: dict[str, Any] = json.loads(path.read_text()) if args.part and path.exists() else {}
    made = Source(args.data)
    for part in args.part or PARTS:
        print(f"measuring: {part}", flush=True)
        report |= PARTS[part](made)
        report["cores"] = os.cpu_count()
        path.write_text(json.dumps(report, indent=2) + "\n")
    plots.draw(report, OUT)
    show(report)


class Source:
    """Rollouts: groups of one question each, never the same twice."""

    def __init__(self, data: Path | None) -> None:
        self._taken = 0
        self._lines = data.read_text().splitlines() if data else []

    def groups(self, count: int, size: int = GROUP, right: float = 0.0) -> Rollouts:
        """`right`: the share of stories that hold no error; others hold one or several."""
        found = []
        for _ in range(count):
            rng = stream(f"bench {self._taken}")
            [task] = make_tasks(rng, 1)
            for number in range(size):
                # No two alike, or one would be judged for both.
                slips = tasks.NO_SLIPS if number < right * size else tasks.ALL_KINDS
                text = f"Take {number}: {tasks.demonstrate(task, rng, slips)}"
                if self._lines:  # each line is a rollout of its own question
                    line = json.loads(self._lines[self._taken % len(self._lines)])
                    text = "\n\n".join(line["steps"])
                    found.append(rollout(line["input"], text))
                    self._taken += 1
                else:
                    found.append(rollout(task.question, text))
            self._taken += 1
        return found


def rollout(question: str, response: str) -> dict[str, Any]:
    return {"question": question, "response": response, "outcome": 1.0}


def overhead(made: Source) -> dict[str, Any]:
    """Bare engine and service in turns, with the same questions in each round."""
    bare_rates, rates, rollout_rates, shares = [], [], [], []
    with bare("brief") as generate, service("brief") as url:
        blocks: dict[float, float] = {}
        for turn in range(ROUNDS + 1):
            rollouts = made.groups(GROUPS)
            voting = {**FULL_VOTE, "seed": turn}
            alone = generate(rollouts, voting)
            before = loop_blocks(url)
            seconds, batch = credited(url, rollouts, voting)
            if not turn:
                continue  # warms both up
            for edge, count in loop_blocks(url).items():
                blocks[edge] = blocks.get(edge, 0) + count - before[edge]
            bare_rates.append(alone["tokens"] / alone["seconds"])
            rates.append(batch.usage.completion_tokens / seconds)
            rollout_rates.append(len(rollouts) / seconds)
            shares.append(rates[-1] / bare_rates[-1])
            print(f"  {bare_rates[-1]:.1f} {rates[-1]:.1f} tokens/s", flush=True)
        usage = batch.usage
        length = sum(len(each["response"]) for each in rollouts) / 4
    read = usage.prompt_tokens - usage.cached_tokens
    return {
        "engine_tokens_per_s": median(bare_rates), "service_tokens_per_s": median(rates),
        "overhead_ratio": median(shares), "overhead_ratios": shares,
        "service_rollouts_per_s": median(rollout_rates),
        "max_loop_block_ms": 1000 * max(edge for edge, count in blocks.items() if count),
        "loop_wake_ups": {f"{1000 * edge:g} ms": count for edge, count in blocks.items()},
        "judge_tokens_per_rollout_token": (read + usage.completion_tokens) / length,
    }  # fmt: skip


def prefix(made: Source) -> dict[str, Any]:
    """By the engine's own counters, over a group of 16 rollouts with k = 4."""
    with service("brief") as url:
        names = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
        before = [metric(url, name) for name in names]
        _, batch = credited(url, made.groups(1), FULL_VOTE)
        hits, asked = (metric(url, n) - b for n, b in zip(names, before, strict=True))
    told = batch.usage.cached_tokens / batch.usage.prompt_tokens
    return {"prefix_hit_ratio": hits / asked, "prefix_hit_ratio_told": told}


def early_stop(made: Source) -> dict[str, Any]:
    """Tokens that must be bought, of those of the full vote: on recorded critiques, and live.

    Half of the stories are right. Recorded critiques are bought in waves, as on a busy engine;
    live, they are begun as this machine's engine has room for them.
    """
    found: dict[str, Any] = {}
    judges = {"embedded": "brief", "testbed": "verdict", "testbed-f60": "verdict"}
    for judge, style in judges.items():
        with service(style, judge) as url:
            rollouts = made.groups(4, 4, 0.5)
            _, full = credited(url, rollouts, {**FULL_VOTE, "n": 16}, include=["critiques"])
            found[judge] = token_ratios(full)
            live = {}
            for method in ("intersection", "majority"):
                voting = {"method": method, "n": K, "seed": 7}
                rollouts = made.groups(2, GROUP, 0.5)
                _, every = credited(url, rollouts, {**voting, "early_stop": False})
                _, some = credited(url, rollouts, voting)
                same = [
                    [step.wrong for step in a.steps] == [step.wrong for step in b.steps]
                    for a, b in zip(every.credited, some.credited, strict=True)
                ]
                live[method] = {
                    "token_ratio": some.usage.completion_tokens / every.usage.completion_tokens,
                    "same_verdicts": sum(same) / len(same), "rollouts": len(same),
                }  # fmt: skip
            found[f"{judge}_live"] = live
        print(f"  {judge}: {found[judge]} {live}", flush=True)
    at_four = {method: ratios[K - 1] for method, ratios in found["testbed"].items()}
    return {"early_stop_token_ratio": at_four, "early_stop": found}


def votes(made: Source) -> dict[str, Any]:
    """Styles side by side, and the price of k = 16 against k = 1, each alternating."""
    found: dict[str, Any] = {}
    prices = {}
    asked = made.groups(2, 8)
    for style in STYLES:
        with service(style) as url:
            credited(url, made.groups(1, 2), {"n": 1})  # warms up
            taken, batch = credited(url, asked, {"n": 8, "early_stop": False, "seed": 1})
            if style == "verdict":
                runs: dict[int, list[float]] = {1: [], 4: [], 16: []}
                for _ in range(ROUNDS):
                    for k in runs:
                        seconds, _ = credited(url, made.groups(2, 8), {"n": k, "early_stop": False})
                        runs[k].append(seconds)
                prices = {k: median(seconds) / median(runs[1]) for k, seconds in runs.items()}
        usage = batch.usage
        found[style] = {
            "tokens": usage.completion_tokens / usage.critiques_run,
            "rollouts_per_s": len(asked) / taken,
            "agreement_within": within(batch),
            "majority": [[step.wrong for step in each.steps] for each in batch.credited],
        }
    between = {
        f"{a}-{b}": agree(found[a]["majority"], found[b]["majority"])
        for a, b in zip(STYLES, STYLES[1:] + STYLES[:1], strict=True)
    }
    for style in found.values():
        del style["majority"]
    return {"styles": found, "agreement_between": between, "vote_cost": prices,
            "vote_cost_16": prices[16]}  # fmt: skip


def price(made: Source) -> dict[str, Any]:
    """What brings the price of k = 16 down: the opening in the prompt, and early stop."""
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "no prefill": ("false", {"n": 16, "early_stop": False}),
        "prefill": ("true", {"n": 16, "early_stop": False}),
        "prefill, early stop, majority": ("true", {"n": 16}),
        "prefill, early stop, intersection": ("true", {"n": 16, "method": "intersection"}),
    }
    found = {}
    for prefill in ("false", "true"):
        with service("verdict", CAPO_PREFILL=prefill) as url:
            credited(url, made.groups(1, 2), {"n": 1})  # warms up
            mine = {name: voting for name, (how, voting) in ways.items() if how == prefill}
            runs: dict[str, list[float]] = {name: [] for name in ("one", *mine)}
            for _ in range(ROUNDS):
                for name, voting in {"one": {"n": 1}, **mine}.items():
                    runs[name].append(credited(url, made.groups(2, 8), voting)[0])
        found |= {name: median(runs[name]) / median(runs["one"]) for name in mine}
    return {"vote_cost_16_by": found}


def latency(made: Source) -> dict[str, Any]:
    """Single rollouts, so many callers at once, each sending the next when it is answered."""
    found = []
    with service("brief") as url:
        credited(url, made.groups(1), FULL_VOTE)  # warms up
        for callers in (1, 2, 4, 8, 16, 32):
            rollouts = made.groups(max(callers // 2, 2), 4)
            times, tokens, seconds = asyncio.run(_callers(url, rollouts, callers))
            found.append({
                "callers": callers, "rollouts_per_s": len(times) / seconds,
                "tokens_per_s": tokens / seconds, "p50_ms": 1000 * median(times),
                "p99_ms": 1000 * quantiles(times, n=100)[98],
            })  # fmt: skip
            print(f"  {found[-1]}", flush=True)
        alone, _, _ = asyncio.run(_callers(url, made.groups(10, 4), 1))
    return {"concurrency": found, "p50_ms": 1000 * median(alone),
            "p99_ms": 1000 * quantiles(alone, n=100)[98]}  # fmt: skip


async def _callers(url: str, rollouts: Rollouts, count: int) -> tuple[list[float], int, float]:
    waiting, times, tokens = list(rollouts), [], 0
    async with AsyncCreditClient(url, batch_size=1, concurrency=count) as client:

        async def call() -> None:
            nonlocal tokens
            while waiting:
                one, started = waiting.pop(), time.perf_counter()
                batch = await client.credit([one], voting={"n": K})
                times.append(time.perf_counter() - started)
                tokens += batch.usage.completion_tokens

        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(count)))
    return times, tokens, time.perf_counter() - started


def script(made: Source) -> dict[str, Any]:
    """What a user would write, and this service with its defaults, on the same rollouts."""
    rollouts = made.groups(1)
    with vllm_server() as url:
        asyncio.run(naive.credit(url, rollouts[:1], 1, 16))  # warms up
        found = asyncio.run(naive.credit(url, rollouts, K, NAIVE_TOKENS))
    with service("brief") as url:
        credited(url, made.groups(1, 2), FULL_VOTE)
        seconds, _ = credited(url, rollouts, FULL_VOTE)
        by_default, _ = credited(url, made.groups(1), {"n": K})
    rate = len(rollouts) / found["seconds"]
    return {
        "naive_rollouts_per_s": rate, "naive_max_tokens": NAIVE_TOKENS,
        "naive_readable": found["readable"],
        "naive_tokens_per_critique": found["tokens"] / (K * len(rollouts)),
        "naive_tokens_per_s": found["tokens"] / found["seconds"],
        "naive_speedup": len(rollouts) / seconds / rate,
        "naive_speedup_early_stop": len(rollouts) / by_default / rate,
    }  # fmt: skip


def speculation(made: Source) -> dict[str, Any]:
    """n-gram speculation from the prompt, on the bare engine: with it, for each without it."""
    settings = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4,
                "prompt_lookup_min": 2}  # fmt: skip
    found = {}
    for style in ("brief", "full"):
        shares = []
        with (
            bare(style) as plain,
            bare(style, {"speculative_config": settings}) as speculative,
        ):
            for turn in range(ROUNDS + 1):
                rollouts = made.groups(1, 4)
                voting = {**FULL_VOTE, "seed": turn}
                one, other = plain(rollouts, voting), speculative(rollouts, voting)
                rates = [each["tokens"] / each["seconds"] for each in (one, other)]
                if turn:
                    shares.append(rates[1] / rates[0])
        found[style] = median(shares)
    return {"speculation_speedup": found}


PARTS = {
    "overhead": overhead, "prefix": prefix, "early_stop": early_stop, "votes": votes,
    "price": price, "latency": latency, "script": script, "speculation": speculation,
}  # fmt: skip


def within(batch: CreditBatch) -> float:
    """Mean over steps of the share of critiques on the larger side."""
    shares = [
        max(step.votes.wrong, step.votes.valid - step.votes.wrong) / step.votes.valid
        for each in batch.credited
        for step in each.steps
    ]
    return sum(shares) / len(shares)


def agree(one: Sequence[Sequence[bool]], other: Sequence[Sequence[bool]]) -> float:
    pairs = [
        a == b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    ]  # fmt: skip
    return sum(pairs) / len(pairs)


def show(report: dict[str, Any]) -> None:
    table = Table("", "measured", title=f"Service on {report['cores']} cores")
    for name, meaning in SHOWN.items():
        if name in report:
            table.add_row(meaning, f"{report[name]:.3g}")
    for method, ratio in report.get("early_stop_token_ratio", {}).items():
        table.add_row(f"tokens bought, {method}, k = 4", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
