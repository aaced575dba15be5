"""GET /info tells the limits of the judge's engine, and the queue follows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from capo_service.engine.base import BatchLimits, JudgeLimits
from kit_scripted import ScriptedEngine
from kit_service import serving, settings


class TwoRanks(ScriptedEngine):
    """Limits as those of vLLM with --data-parallel-size 2."""

    async def start(self) -> JudgeLimits:
        batch = BatchLimits(256, 8192, 450_000, 16, ranks=2)
        return replace(await super().start(), slots=batch.slots, batch=batch)


def info(engine: ScriptedEngine, folder: Path, **given: object) -> dict[str, Any]:
    with serving(engine, settings(folder, **given)) as service:
        found: dict[str, Any] = httpx.get(f"{service.url}/info", timeout=30).json()
    return found


def test_the_limits_of_all_ranks(tmp_path: Path) -> None:
    found = info(TwoRanks(), tmp_path)
    assert found["engine_limits"] == {
        "slots": 512,
        "ranks": 2,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 8192,
        "kv_cache_tokens": 450_000,
        "block_size": 16,
    }
    assert found["limits"]["max_running"] == 512


@pytest.mark.parametrize(("slots", "running"), [(64, 128), (1024, 1024)])
def test_max_running_follows_the_engines_slots(tmp_path: Path, slots: int, running: int) -> None:
    found = info(ScriptedEngine(slots=slots), tmp_path)
    assert found["limits"]["max_running"] == running
    assert found["engine_limits"] is None  # as of an engine that runs elsewhere


def test_the_operators_max_running_is_kept(tmp_path: Path) -> None:
    assert info(TwoRanks(), tmp_path, max_running=7)["limits"]["max_running"] == 7
