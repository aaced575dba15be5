"""One and two replicas behind the client's balancer.

    make bench-fleet         # a table, and build/bench/fleet.json

Each replica is a service of the embedded model with one thread. On two cores two of them are no
faster than what the cores give; what is measured is the balancer's own cost, and what it keeps of
the engines' prefix caches against taking turns (round robin). Rollouts are sent one by one, as by a
trainer that samples, with short verdicts.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import timeit
from collections.abc import Sequence
from statistics import median
from typing import Any

from engines import LOGS, OUT, Rollouts, metric
from rich.console import Console
from rich.table import Table
from running import Source

from capo_client import AsyncCreditClient
from capo_client.balance import Balancer, Replica
from capo_testbed.serving import serving

ROUNDS, QUESTIONS, EACH = 3, 8, 8
_COUNTERS = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"


class RoundRobin(Balancer):
    """Round robin, whatever the question."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__(urls)
        self._turns = itertools.cycle(self.replicas)

    def pick(self, key: str, tokens: int) -> Replica:
        return next(self._turns)


def main() -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    made, found = Source(None), {}
    settings = {"CAPO_CRITIQUE_STYLE": "verdict", "CAPO_NONCE_SECRET": "bench"}
    with contextlib.ExitStack() as stack:
        urls = [
            stack.enter_context(serving("embedded", LOGS / f"replica-{i}.log", **settings))
            for i in range(2)
        ]
        fleets: dict[str, Any] = {
            "one replica": lambda: Balancer(urls[:1]),
            "two, balanced": lambda: Balancer(urls),
            "two, round robin": lambda: RoundRobin(urls),
        }
        for k in (1, 4):
            rows: dict[str, list[dict[str, float]]] = {name: [] for name in fleets}
            for turn in range(ROUNDS + 1):
                for name, make in fleets.items():
                    row = asyncio.run(run(urls, make(), rollouts(made), k))
                    if turn:
                        rows[name].append(row)
            found[f"k = {k}"] = {
                name: {key: median(row[key] for row in many) for key in many[0]}
                for name, many in rows.items()
            }
    found["pick_us"] = {count: pick_us(count) for count in (1, 2, 8, 64)}
    (OUT / "fleet.json").write_text(json.dumps(found, indent=2) + "\n")
    show(found)


def rollouts(made: Source) -> Rollouts:
    """Of several questions, as a trainer's sampler ends them: in any order."""
    groups = made.groups(QUESTIONS, EACH)
    return [groups[q * EACH + i] for i in range(EACH) for q in range(QUESTIONS)]


async def run(
    urls: Sequence[str], balancer: Balancer, rollouts: Rollouts, k: int
) -> dict[str, float]:
    before = [sum(metric(url, name) for url in urls) for name in _COUNTERS]
    loop = asyncio.get_running_loop()
    async with AsyncCreditClient(list(urls), concurrency=16) as client:
        client._balancer = balancer
        started = loop.time()
        async with client.session(voting={"n": k, "early_stop": False}) as session:
            for rollout in rollouts:
                session.submit([rollout])
            (await session.collect()).raise_for_errors()
        seconds = loop.time() - started
    after = [sum(metric(url, name) for url in urls) for name in _COUNTERS]
    hits, asked = (b - a for a, b in zip(before, after, strict=True))
    return {"rollouts_per_s": len(rollouts) / seconds, "prefix_hit_ratio": hits / asked}


def pick_us(count: int) -> float:
    """Microseconds to choose among so many replicas."""
    balancer = Balancer([f"http://replica-{i}" for i in range(count)])
    return 1e6 * min(timeit.repeat(lambda: balancer.pick("q", 1), number=500, repeat=5)) / 500


def show(found: dict[str, Any]) -> None:
    table = Table("fleet", "k", "rollouts/s", "prefix hit ratio")
    for k in (1, 4):
        for name, row in found[f"k = {k}"].items():
            table.add_row(
                name, str(k), f"{row['rollouts_per_s']:.2f}", f"{row['prefix_hit_ratio']:.3f}"
            )
    Console().print(table)
    Console().print("To choose, of so many replicas, us:", found["pick_us"])


if __name__ == "__main__":
    main()
