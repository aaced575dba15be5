"""Ten times the service's capacity, and a batch with one very long rollout, on the real engine.

    make bench-overload      # a table, and build/bench/overload.json

For two minutes a hundred callers send requests of one to four rollouts, together ten times what the
service was just measured to do, whatever Retry-After they are told; settings are the defaults. Then
a batch of 32 rollouts, alone and with one that is ninety times as long.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from statistics import median, quantiles
from typing import Any

import httpx
from engines import LOGS, OUT, Rollouts, credited, metric, service
from rich.console import Console
from rich.table import Table
from running import Source

from capo_client import AsyncCreditClient

CALLERS, SECONDS, EACH, DEADLINE_S = 100, 120.0, (1, 2, 4), 30.0
VOTING = {"n": 4}
TIMES = 10.0
LONGER = 90  # times; a hundred would not fit the judge's context


def main() -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    made = Source(None)
    with service("verdict") as url:
        capacity = capacity_of(url, made)
        found = asyncio.run(flood(url, made, TIMES * capacity, SECONDS))
        found["capacity_rollouts_per_s"] = capacity
        found["offered_over_capacity"] = found["offered_rollouts_per_s"] / capacity
    print(found, flush=True)
    with service("verdict") as url:
        credited(url, made.groups(1), VOTING)  # warms up
        found |= uneven(url, made)
    (OUT / "overload.json").write_text(json.dumps(found, indent=2) + "\n")
    table = Table("", "measured", title=f"{CALLERS} callers for {SECONDS:.0f} s")
    for name, value in found.items():
        table.add_row(
            name.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else f"{value}"
        )
    Console().print(table)


def capacity_of(url: str, made: Source) -> float:
    """Rollouts a second that the service credits when it is given many at once."""
    credited(url, made.groups(1), VOTING)  # warms up
    seconds, batch = credited(url, made.groups(2), VOTING)
    return len(batch.results) / seconds


async def flood(url: str, made: Source, rate: float, seconds: float) -> dict[str, Any]:
    """A hundred callers who together offer so many rollouts a second, whatever they are told.

    A refusal's Retry-After is truthful if the same request, sent again then, is accepted: every
    tenth caller does that.
    """
    pause = CALLERS * sum(EACH) / len(EACH) / rate
    pool = made.groups(1000, max(EACH))
    numbers = itertools.count()
    accepted: list[float] = []
    refused: list[float] = []
    retried: list[bool] = []
    statuses: Counter[str] = Counter()
    offered = answered = lost = late = 0
    memory = metric(url, "process_resident_memory_bytes")
    started = time.perf_counter()
    until = started + seconds
    limits = httpx.Limits(max_connections=CALLERS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as http:

        async def ask(each: int) -> httpx.Response:
            nonlocal offered, answered, lost, late
            number = next(numbers)
            rollouts = [
                {**pool[(number * max(EACH) + i) % len(pool)], "id": f"{number}-{i}"}
                for i in range(each)
            ]
            body = {"rollouts": rollouts, "voting": VOTING, "deadline_ms": int(1000 * DEADLINE_S)}
            sent = time.perf_counter()
            answer = await http.post("/credit", json=body)
            took = time.perf_counter() - sent
            offered += each
            statuses[str(answer.status_code)] += 1
            if answer.status_code == 200:
                accepted.append(took)
                results = answer.json()["results"]
                answered += sum(r["status"] == "ok" for r in results)
                lost += len({r["id"] for r in rollouts} - {r["id"] for r in results})
                late += sum(r["status"] == "error" for r in results)
            elif answer.status_code == 504:
                accepted.append(took)
                late += each
            elif answer.status_code == 429:
                refused.append(float(answer.headers["retry-after"]))
            return answer

        async def call(caller: int) -> None:
            await asyncio.sleep(pause * caller / CALLERS)
            each = EACH[caller % len(EACH)]
            while time.perf_counter() < until:
                sent = time.perf_counter()
                answer = await ask(each)
                if answer.status_code == 429 and caller % 10 == 0:
                    told = float(answer.headers["retry-after"])
                    if time.perf_counter() + told > until:
                        continue
                    await asyncio.sleep(told)
                    retried.append((await ask(each)).status_code != 429)
                await asyncio.sleep(max(pause - (time.perf_counter() - sent), 0))

        await asyncio.gather(*map(call, range(CALLERS)))
    took = time.perf_counter() - started
    if not accepted:
        raise RuntimeError(f"nothing was accepted: {statuses}")
    await asyncio.sleep(2)
    return {
        "offered_rollouts_per_s": offered / took, "answered_rollouts_per_s": answered / took,
        "requests_by_status": dict(statuses), "lost_rollouts": lost, "late_rollouts": late,
        "p50_accepted_s": median(accepted), "p99_accepted_s": quantiles(accepted, n=100)[98],
        "longest_accepted_s": max(accepted), "deadline_s": DEADLINE_S,
        "median_retry_after_s": median(refused) if refused else 0.0,
        "accepted_at_retry_after": sum(retried) / len(retried) if retried else 1.0,
        "still_accepted": metric(url, "capo_accepted"),
        "memory_before_mib": memory / 2**20,
        "memory_after_mib": metric(url, "process_resident_memory_bytes") / 2**20,
        "max_loop_block_ms": 1000 * metric(url, "capo_loop_blocked_longest_seconds"),
    }  # fmt: skip


def uneven(url: str, made: Source) -> dict[str, Any]:
    """Seconds until the 32 are done, without and with a giant sent first."""
    runs: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(3):
        for giant in runs:
            runs[giant].append(asyncio.run(_all_but_first(url, made.groups(2), giant)))
    return {"batch_s": median(runs[False]), "batch_beside_giant_s": median(runs[True])}


async def _all_but_first(url: str, rollouts: Rollouts, giant: bool) -> float:
    if giant:
        one = rollouts[0]
        steps = one["response"].split("\n\n")
        # In as many steps as it had: each costs prompt tokens of its own.
        long = "\n\n".join((step + " ") * LONGER for step in steps)
        rollouts = [{**one, "response": long}, *rollouts]
    started, last = time.perf_counter(), 0.0
    async with AsyncCreditClient(url, batch_size=64) as client:
        async for position, result in client.credit_stream(rollouts, voting=VOTING):
            assert result.status == "ok", result
            if position or not giant:
                last = time.perf_counter() - started
    return last


if __name__ == "__main__":
    main()
