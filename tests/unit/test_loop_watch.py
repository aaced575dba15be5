"""The event loop's watch sees what keeps the loop, also from another thread."""

from __future__ import annotations

import asyncio
import time

import pytest

from capo_service.observability.loop_lag import LoopWatch

LONG = 0.2


def spin() -> None:
    """Use the processor, whatever else the machine does."""
    until = time.process_time() + LONG
    while time.process_time() < until:
        sum(range(1000))


def hold() -> None:
    """Hold the interpreter in one call, as a JSON parser does."""
    until = time.process_time() + LONG
    count = 1_000_000
    while time.process_time() < until:
        sum(range(count))  # one bytecode
        count *= 4


@pytest.mark.parametrize("where", ["loop", "thread"])
def test_a_block_is_seen(where: str) -> None:
    noted: list[float] = []
    watch = LoopWatch(noted.append)

    async def story() -> None:
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0.05)
        if where == "loop":
            spin()
        else:
            await asyncio.to_thread(hold)
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(story())
    # A thread's last call alone takes most of the time that all of them take.
    assert max(noted) == watch.longest > LONG / 4


def test_an_idle_loop_is_not_blocked_by_us() -> None:
    noted: list[float] = []

    async def story() -> None:
        task = asyncio.create_task(LoopWatch(noted.append).run())
        await asyncio.sleep(0.2)
        task.cancel()

    used = time.process_time()
    asyncio.run(story())
    assert noted and max(noted) <= time.process_time() - used
