"""The supervisor's own logic, on scripted engines; real ones are killed in tests/integration."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from capo_service.engine import supervisor
from capo_service.engine.base import EngineDeadError
from capo_service.engine.supervisor import Supervisor
from kit_time import now, stepped


class Engine:
    """Answers pings and uses CPU time, unless switched off."""

    def __init__(self) -> None:
        self.failed = False
        self.answers = True
        self.works = True
        self.ping_error: Exception | None = None
        self.supervise_error: Exception | None = None
        self.pings = 0
        self.ended: list[bool] = []
        self._used = 0.0

    async def ping(self) -> None:
        self.pings += 1
        if self.failed:
            raise EngineDeadError("gone")
        if self.ping_error is not None:
            raise self.ping_error
        while not self.answers:
            await asyncio.sleep(0.1)

    def cpu_seconds(self) -> float:
        if self.supervise_error is not None:
            raise self.supervise_error
        self._used += self.works
        return self._used

    async def end(self, lost: bool) -> None:
        self.ended.append(lost)
        self.failed = True


class Loader:
    """Starts engines, and fails where `broken`."""

    def __init__(self) -> None:
        self.made: list[Engine] = []
        self.broken = 0
        self.tried: list[float] = []

    async def __call__(self) -> Engine:
        self.tried.append(now())
        if self.broken:
            self.broken -= 1
            raise ValueError("no memory")
        self.made.append(Engine())
        return self.made[-1]


@asynccontextmanager
async def supervised(hang_seconds: float = 60) -> AsyncIterator[tuple[Supervisor[Engine], Loader]]:
    loader = Loader()
    keeper = Supervisor(loader, hang_seconds, clock=now)
    await keeper.start()
    try:
        yield keeper, loader
    finally:
        await keeper.close()


async def eventually(condition: Callable[[], object], seconds: float = 200) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.1)


@stepped
async def test_an_engine_that_answers_keeps_running_and_is_ended_without_force() -> None:
    async with supervised() as (keeper, loader):
        await asyncio.sleep(600)
        assert keeper.runner is loader.made[0] and not keeper.restarts
        assert loader.made[0].pings > 100
    assert loader.made[0].ended == [False] and len(loader.made) == 1
    assert keeper.runner is None


@stepped
async def test_a_dead_engine_is_replaced() -> None:
    async with supervised() as (keeper, loader):
        loader.made[0].failed = True
        assert keeper.runner is None  # at once, before the next look
        await eventually(lambda: keeper.runner)
        assert keeper.runner is loader.made[1] and keeper.restarts == 1 and not keeper.dead
    assert loader.made[0].ended == [True]


@stepped
async def test_an_engine_without_heartbeat_and_cpu_use_is_killed() -> None:
    async with supervised() as (keeper, loader):
        loader.made[0].works = loader.made[0].answers = False
        await asyncio.sleep(supervisor._IDLE_SECONDS - supervisor._PERIOD)
        assert not keeper.restarts
        await eventually(lambda: keeper.restarts, 4 * supervisor._PERIOD)
        assert loader.made[0].ended == [True]
        await eventually(lambda: keeper.runner is loader.made[1])


@stepped
async def test_an_engine_that_uses_cpu_is_killed_after_hang_seconds() -> None:
    async with supervised(hang_seconds=60) as (keeper, loader):
        loader.made[0].answers = False
        await asyncio.sleep(58)
        assert not keeper.restarts
        await eventually(lambda: keeper.restarts, 4)
        assert loader.made[0].ended == [True]


@stepped
async def test_a_heartbeat_and_cpu_use_reset_their_counts() -> None:
    async with supervised(hang_seconds=60) as (keeper, loader):
        engine = loader.made[0]
        for _ in range(10):
            engine.answers = engine.works = False
            await asyncio.sleep(supervisor._IDLE_SECONDS - 1)
            engine.works = True
            await asyncio.sleep(2 * supervisor._PERIOD)
        assert not keeper.restarts
        engine.answers = True
        await asyncio.sleep(2)
        engine.answers = False
        await asyncio.sleep(55)
        assert not keeper.restarts


@stepped
async def test_time_in_which_this_process_was_suspended_does_not_count() -> None:
    """Its engine was suspended with it."""
    missed = 0.0
    loader = Loader()
    keeper = Supervisor(loader, 60, clock=lambda: now() + missed)
    await keeper.start()
    try:
        engine = loader.made[0]
        engine.works = engine.answers = False
        await asyncio.sleep(1)
        missed = 3600
        await asyncio.sleep(1)
        assert not keeper.restarts
        engine.answers = True
        await asyncio.sleep(60)
        assert not keeper.restarts
    finally:
        await keeper.close()


@pytest.mark.parametrize("way", ["does not start", "dies at once"])
@stepped
async def test_an_engine_that_does_not_recover_is_not_restarted_again(way: str) -> None:
    async with supervised() as (keeper, loader):
        loader.broken = 10 if way == "does not start" else 0
        loader.made[-1].failed = True
        while not keeper.dead:
            await eventually(lambda: keeper.runner or keeper.dead)
            if keeper.runner is not None:
                keeper.runner.failed = True
        assert keeper.runner is None and keeper.restarts == 2


@stepped
async def test_an_engine_that_starts_at_the_second_attempt_stays() -> None:
    async with supervised() as (keeper, loader):
        loader.broken = 1
        loader.made[0].failed = True
        await eventually(lambda: keeper.runner)
        assert not keeper.dead and keeper.restarts == 2
        assert loader.tried[2] - loader.tried[1] == pytest.approx(supervisor._PAUSE_SECONDS)


@stepped
async def test_the_time_until_ready_is_that_of_the_last_load() -> None:
    now = 100.0

    async def load() -> Engine:
        nonlocal now
        now += 20
        return Engine()

    keeper = Supervisor(load, 60, clock=lambda: now)
    await keeper.start()
    try:
        assert keeper.ready_in == 0
        assert keeper.runner is not None
        keeper.runner.failed = True
        assert keeper.ready_in == 20
    finally:
        await keeper.close()


@pytest.mark.parametrize("error", [RuntimeError("no answer"), EngineDeadError("gone")])
@stepped
async def test_a_failed_ping_is_not_a_heartbeat(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(hang_seconds=0.3) as (keeper, loader):
        loader.made[0].ping_error = error
        await eventually(lambda: keeper.restarts and keeper.runner is loader.made[-1])
        assert loader.made[0].ended == [True] and not keeper.dead
    assert re.search(r"no heartbeat for \d+ s$", caplog.text, re.MULTILINE)
    assert ("no answer" in caplog.text) == isinstance(error, RuntimeError)


@stepped
async def test_an_engine_that_cannot_be_supervised_is_replaced_and_the_reason_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with supervised() as (keeper, loader):
        loader.made[0].supervise_error = OSError("no more file descriptors")
        await eventually(lambda: keeper.restarts and keeper.runner is loader.made[-1])
        assert loader.made[0].ended == [True] and not keeper.dead
    assert "no more file descriptors" in caplog.text


@stepped
async def test_an_engine_that_can_never_be_supervised_is_not_restarted_again() -> None:
    async with supervised() as (keeper, loader):
        for number in range(3):
            await eventually(lambda n=number: len(loader.made) > n)  # type: ignore[misc]
            loader.made[number].supervise_error = OSError("no more file descriptors")
        await eventually(lambda: keeper.dead)
        assert keeper.runner is None


@stepped
async def test_the_engine_is_dead_even_if_its_processes_cannot_be_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stuck(Engine):
        async def end(self, lost: bool) -> None:
            self.failed = True
            raise OSError("zombie")

    async def load() -> Engine:
        return Stuck()

    keeper = Supervisor(load, 60)
    await keeper.start()
    while not keeper.dead:
        if keeper.runner is not None:
            keeper.runner.failed = True
        await eventually(lambda: keeper.runner or keeper.dead)
    await keeper.close()
    assert keeper.runner is None and "zombie" in caplog.text
