"""The verifier's worker processes: killed, out of memory, hanging. An outcome is a reward, so a worker
that dies by itself must not make a right answer wrong."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import psutil
import pytest

from capo_service.pipeline import verifier as verifier_module
from capo_service.pipeline.verifier import Verified, Verifier


@asynccontextmanager
async def running(workers: int = 2, timeout: float = 30) -> AsyncIterator[Verifier]:
    verifier = Verifier(workers, timeout)
    await verifier.start()
    try:
        yield verifier
    finally:
        await verifier.close()


def workers() -> Iterator[int]:
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # one that has just ended
            if "spawn_main" in " ".join(child.cmdline()):
                yield child.pid


async def test_killed_workers_do_not_make_a_right_answer_wrong() -> None:
    async with running() as verifier:
        jobs = [asyncio.create_task(verifier.verify(f"#### {n}", f"#### {n}")) for n in range(60)]
        for _ in range(2):
            await asyncio.sleep(0.02)
            for pid in list(workers()):
                os.kill(pid, signal.SIGKILL)
        found = await asyncio.gather(*jobs)
        assert found == [Verified(1.0)] * 60
        assert await verifier.verify("#### 1", "#### 2") == Verified(0.0)


async def test_all_workers_run_before_the_first_answer() -> None:
    """A burst must not meet processes that start only then (nor too few descriptors for them)."""
    async with running(workers=3) as verifier:
        assert len(list(workers())) == 3
        assert await verifier.verify("#### 1", "#### 1") == Verified(1.0)


def test_there_are_as_many_workers_as_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cpus in (1, 2, 5, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cpus: set(range(n)))
        found.append(Verifier().workers)
    assert found == [2, 2, 5, 8] and Verifier(3).workers == 3


async def test_a_worker_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_module, "_START_SECONDS", 5.0)
    async with running(workers=1, timeout=5) as verifier:
        [stopped] = workers()
        os.kill(stopped, signal.SIGSTOP)
        found = await verifier.verify("#### 42", "#### 42")
        # It may have been given the answer before it hung; then that is what took too long.
        assert found == Verified(1.0) or "took over 5 s" in str(found.detail)
        assert await verifier.verify("#### 42", "#### 42") == Verified(1.0)


async def test_an_answer_that_takes_all_memory_or_all_time_costs_itself_only() -> None:
    async with running(timeout=3) as verifier:
        hostile = [
            r"$9^{9^{9^{9}}}$",
            "$" + "(" * 20_000 + "1" + ")" * 20_000 + "$",
            "$10^{10^{9}}!$",
        ]
        found = await asyncio.gather(*(verifier.verify(text, "#### 42") for text in hostile))
        assert all(result.value == 0.0 and result.reason for result in found)
        assert await verifier.verify("#### 42", "#### 42") == Verified(1.0)


async def test_all_turns_share_one_time_limit() -> None:
    """The last turn with an answer counts, and the limit is for all turns together."""
    turns = ["I call the tool again. " * 10] * 399
    async with running(workers=1) as verifier:
        found = await verifier.verify(turns[0], "#### 42", ["It is \\boxed{42}.", *turns])
        assert found == Verified(1.0)
        without = await verifier.verify(turns[0], "#### 42", turns)
        assert (without.value, without.reason) == (0.0, "no_answer")
        verifier._timeout = 0.1  # none of the turns takes that long by itself
        slow = await verifier.verify("So.", "#### 42", ["It is (so it is) " * 500] * 399)
        assert (slow.value, slow.reason) == (0.0, "timeout")
        verifier._timeout = 30
        assert await verifier.verify("#### 42", "#### 42") == Verified(1.0)
