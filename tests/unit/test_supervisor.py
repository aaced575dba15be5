"""The supervisor's own logic, on engines that do as they are told; real ones are killed in
tests/integration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from capo_service.engine import supervisor
from capo_service.engine.base import EngineDeadError
from capo_service.engine.supervisor import Supervisor


class Engine:
    """Answers pings and works, until told otherwise."""

    def __init__(self) -> None:
        self.failed = False
        self.answers = True
        self.works = True
        self.ended: list[bool] = []
        self._used = 0.0

    async def ping(self) -> None:
        if self.failed:
            raise EngineDeadError("gone")
        while not self.answers:
            await asyncio.sleep(0.001)

    def processor_seconds(self) -> float:
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

    async def __call__(self) -> Engine:
        if self.broken:
            self.broken -= 1
            raise ValueError("no memory")
        self.made.append(Engine())
        return self.made[-1]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_PERIOD": 0.01, "_STILL_SECONDS": 0.1, "_PAUSE_SECONDS": 0.01}.items():
        monkeypatch.setattr(supervisor, name, value)


@asynccontextmanager
async def kept(hang_seconds: float = 60) -> AsyncIterator[tuple[Supervisor[Engine], Loader]]:
    loader = Loader()
    keeper = Supervisor(loader, hang_seconds)
    await keeper.start()
    try:
        yield keeper, loader
    finally:
        await keeper.close()


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_engine_that_answers_is_left_alone_and_ended_gently() -> None:
    async with kept() as (keeper, loader):
        await asyncio.sleep(0.2)
        assert keeper.runner is loader.made[0] and not keeper.restarts
    assert loader.made[0].ended == [False] and len(loader.made) == 1
    assert keeper.runner is None


async def test_one_that_died_is_replaced() -> None:
    async with kept() as (keeper, loader):
        loader.made[0].failed = True
        assert keeper.runner is None  # at once, before the next look
        await eventually(lambda: keeper.runner)
        assert keeper.runner is loader.made[1] and keeper.restarts == 1 and not keeper.dead
    assert loader.made[0].ended == [True]


async def test_one_that_neither_answers_nor_works_is_ended_by_force() -> None:
    async with kept() as (keeper, loader):
        loader.made[0].works = loader.made[0].answers = False
        await eventually(lambda: keeper.restarts)
        assert loader.made[0].ended == [True]
        await eventually(lambda: keeper.runner is loader.made[1])


async def test_one_that_works_may_take_its_time_but_not_for_ever() -> None:
    async with kept(hang_seconds=0.6) as (keeper, loader):
        loader.made[0].answers = False
        await asyncio.sleep(0.25)  # well over what one that does nothing is given
        assert not keeper.restarts
        await eventually(lambda: keeper.restarts)


async def test_time_that_nobody_saw_pass_does_not_count() -> None:
    """As when this process was stopped together with its engine."""
    now = 0.0
    loader = Loader()
    keeper = Supervisor(loader, 60, clock=lambda: now)
    await keeper.start()
    try:
        loader.made[0].works = loader.made[0].answers = False
        await asyncio.sleep(0.03)
        now += 3600
        await asyncio.sleep(0.03)
        loader.made[0].answers = True
        await asyncio.sleep(0.1)
        assert not keeper.restarts
    finally:
        await keeper.close()


@pytest.mark.parametrize("way", ["does not start", "dies at once"])
async def test_one_that_does_not_recover_is_given_up(way: str) -> None:
    async with kept() as (keeper, loader):
        loader.broken = 10 if way == "does not start" else 0
        loader.made[-1].failed = True
        while not keeper.dead:
            async with asyncio.timeout(20):
                await eventually(lambda: keeper.runner or keeper.dead)
            if keeper.runner is not None:
                keeper.runner.failed = True
        assert keeper.runner is None and keeper.restarts == 2


async def test_one_that_comes_back_at_the_second_try_is_not_given_up() -> None:
    async with kept() as (keeper, loader):
        loader.broken = 1
        loader.made[0].failed = True
        await eventually(lambda: keeper.runner)
        assert not keeper.dead and keeper.restarts == 2


async def test_callers_are_told_when_to_come_back() -> None:
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
