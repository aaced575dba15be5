"""Callers that send one rollout each, and how late the service's event loop wakes up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from engines import Rollouts, loop_blocks

from capo_client import AsyncCreditClient


@dataclass
class Loop:
    """Wake-ups of the event loop by lateness: upper edge of a bucket in seconds -> count."""

    counts: dict[float, float] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        late = [edge for edge, count in self.counts.items() if count]
        return {
            "max_loop_block_ms": 1000 * max(late, default=0.0),
            "loop_wake_ups": {f"{1000 * edge:g} ms": n for edge, n in self.counts.items()},
        }


@contextlib.contextmanager
def loop_of(url: str) -> Iterator[Loop]:
    """The loop's wake-ups while the block runs."""
    loop, before = Loop(), loop_blocks(url)
    yield loop
    loop.counts = {edge: count - before[edge] for edge, count in loop_blocks(url).items()}


def merged(loops: Sequence[Loop]) -> Loop:
    edges = loops[0].counts
    return Loop({edge: sum(loop.counts[edge] for loop in loops) for edge in edges})


def callers(url: str, rollouts: Rollouts, count: int, voting: dict[str, Any]) -> dict[str, float]:
    """So many callers at once, each sending the next rollout when it is answered."""
    times, tokens, seconds = asyncio.run(_callers(url, rollouts, count, voting))
    return {
        "callers": count,
        "rollouts_per_s": len(times) / seconds,
        "tokens_per_s": tokens / seconds,
        "p50_ms": 1000 * median(times),
        "p99_ms": 1000 * quantiles(times, n=100)[98],
    }


async def _callers(
    url: str, rollouts: Rollouts, count: int, voting: dict[str, Any]
) -> tuple[list[float], int, float]:
    waiting, times, tokens = list(rollouts), [], 0
    async with AsyncCreditClient(url, batch_size=1, concurrency=count) as client:

        async def call() -> None:
            nonlocal tokens
            while waiting:
                one, started = waiting.pop(), time.perf_counter()
                batch = await client.credit([one], voting=voting)
                times.append(time.perf_counter() - started)
                tokens += batch.usage.completion_tokens

        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(count)))
    return times, tokens, time.perf_counter() - started
