"""Ten times more than the service can do, and a batch with one giant, on the real engine.

    make bench-overload      # a table, and build/bench/overload.json

For a minute a hundred callers send short requests, together ten times what the service was just
measured to do, whatever Retry-After they are told; the queue holds a few seconds of work. Then a
batch of 32 rollouts, alone and with one that is ninety times as long.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from statistics import median, quantiles
from typing import Any

import httpx
from engines import LOGS, OUT, Rollouts, credited, metric, service
from rich.console import Console
from rich.table import Table
from service import Source

from capo_client import AsyncCreditClient

CALLERS, SECONDS, EACH, DEADLINE_S = 100, 60.0, 2, 30.0
VOTING = {"n": 4}
QUEUE = "5000"
TIMES = 10.0
LONGER = 90  # times; a hundred would not fit the judge's context


def main() -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    made = Source(None)
    with service("verdict", CAPO_MAX_QUEUED_TOKENS=QUEUE) as url:
        credited(url, made.groups(1), VOTING)  # warms up
        seconds, batch = credited(url, made.groups(2), VOTING)
        capacity = len(batch.results) / seconds
        found = asyncio.run(flood(url, made, capacity))
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


async def flood(url: str, made: Source, capacity: float) -> dict[str, Any]:
    """A hundred callers who together send `TIMES` what was measured, whatever they are told."""
    pause = CALLERS * EACH / (TIMES * capacity)
    pool = made.groups(1000, EACH)
    numbers = itertools.count()
    accepted: list[float] = []
    refused: list[float] = []
    other: dict[str, int] = {}
    lost = late = 0
    memory = metric(url, "process_resident_memory_bytes")
    started = time.perf_counter()
    until = started + SECONDS
    limits = httpx.Limits(max_connections=CALLERS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as http:

        async def call(first: float) -> None:
            nonlocal lost, late
            await asyncio.sleep(first)
            while time.perf_counter() < until:
                number = next(numbers)
                rollouts = [
                    {**pool[(number * EACH + i) % len(pool)], "id": f"{number}-{i}"}
                    for i in range(EACH)
                ]
                sent = time.perf_counter()
                body = {
                    "rollouts": rollouts,
                    "voting": VOTING,
                    "deadline_ms": round(1000 * DEADLINE_S),
                }
                answer = await http.post("/credit", json=body)
                took = time.perf_counter() - sent
                if answer.status_code == 200:
                    accepted.append(took)
                    results = answer.json()["results"]
                    lost += len({r["id"] for r in rollouts} - {r["id"] for r in results})
                    late += sum(r["status"] == "error" for r in results)
                elif answer.status_code == 429:
                    refused.append(float(answer.headers["retry-after"]))
                    await asyncio.sleep(max(pause - took, 0))
                else:
                    name = str(answer.status_code)
                    other[name] = other.get(name, 0) + 1

        await asyncio.gather(*(call(pause * i / CALLERS) for i in range(CALLERS)))
    seconds = time.perf_counter() - started
    if not accepted:
        raise RuntimeError(f"nothing was accepted: {len(refused)} refused, and {other}")
    await asyncio.sleep(2)
    return {
        "offered_rollouts_per_s": EACH * (len(accepted) + len(refused)) / seconds,
        "answered_rollouts_per_s": EACH * len(accepted) / seconds,
        "accepted": len(accepted), "refused_429": len(refused), "other_statuses": other,
        "lost_rollouts": lost, "errors_in_place": late, "p50_accepted_s": median(accepted),
        "p99_accepted_s": quantiles(accepted, n=100)[98], "longest_accepted_s": max(accepted),
        "deadline_s": DEADLINE_S, "median_retry_after_s": median(refused) if refused else 0.0,
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
