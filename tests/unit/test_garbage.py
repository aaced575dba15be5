"""Full collections wait until no request is in flight, but not forever."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from capo_service.concurrency import gc_tuning


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.parametrize(("idle", "settled", "fewest", "most"), [
    (True, True, 5, 100), (False, True, 1, 10), (True, False, 0, 0),
])  # fmt: skip
def test_full_collections(
    idle: bool, settled: bool, fewest: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            full.append(1)

    naps = 0

    async def nap(_: float) -> None:
        nonlocal naps
        naps += 1
        if naps > 40:
            raise asyncio.CancelledError

    if settled:
        gc_tuning.freeze_existing()
    monkeypatch.setattr(gc_tuning.asyncio, "sleep", nap)
    gc.callbacks.append(count)
    try:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(gc_tuning.collect_when_idle(lambda: idle))
    finally:
        gc.callbacks.remove(count)
    assert fewest <= len(full) <= most


def test_existing_objects_are_exempt() -> None:
    gc_tuning.freeze_existing()
    assert gc.get_freeze_count() > 1000
    assert gc.get_threshold()[2] > 100_000
