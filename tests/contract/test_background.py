"""Background tasks that fail: told, counted, and never lost without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from capo_service.api import problems
from capo_service.concurrency import background
from capo_service.engine.base import JudgeLimits
from capo_service.observability import live
from capo_service.observability.loop_lag import LoopWatch
from capo_service.pipeline import canary, loading
from capo_service.pipeline import service as pipeline_service
from capo_service.scheduling.key_watch import KeyWatch
from kit_scripted import ScriptedEngine
from kit_service import Service, body, eventually, serving, settings


async def broken(*_: object) -> None:
    raise RuntimeError("the disk is on fire")


def counted(service: Service, name: str) -> bool:
    text = httpx.get(f"{service.url}/metrics").text
    return f'capo_background_failures_total{{task="{name}"}} 1.0' in text


# name -> how it is broken, and whether the service can go on without it
TASKS: dict[str, tuple[object, str, bool]] = {
    "key-file": (KeyWatch, "run", True),
    "live-view": (live.LiveView, "run", False),
    "loop-watch": (LoopWatch, "run", False),
    "garbage": (pipeline_service, "collect_when_idle", False),
    "canaries": (canary.CanaryWatch, "run", False),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_fails_is_logged_and_counted_and_makes_the_service_unready_where_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    owner, method, vital = TASKS[name]
    monkeypatch.setattr(owner, method, broken)
    with serving(ScriptedEngine(), settings(tmp_path, canary_seconds=60), wait=False) as service:
        eventually(lambda: counted(service, name))
        [told] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert f"background task failed: {name};" in told.getMessage()
        assert "the disk is on fire" in caplog.text
        if not vital:
            eventually(lambda: httpx.get(f"{service.url}/health/ready").status_code == 200)
            assert httpx.post(f"{service.url}/credit", json=body()).status_code == 200
            return
        for path in ("ready", "live"):
            answer = httpx.get(f"{service.url}/health/{path}")
            assert answer.status_code == 503
            assert f"background task {name} failed" in answer.json()["detail"]
        refused = httpx.post(f"{service.url}/credit", json=body())
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert "capo_ready 0.0" in httpx.get(f"{service.url}/metrics").text


def test_a_judge_that_cannot_be_loaded_is_told_where_nobody_asked_to_hear_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ScriptedEngine):
        async def start(self) -> JudgeLimits:
            raise ValueError("no such model")

    with serving(Broken(), settings(tmp_path), wait=False) as service:
        eventually(lambda: counted(service, "loading"))
        assert httpx.get(f"{service.url}/health/live").status_code == 503
    assert "no such model" in caplog.text


def test_what_fails_after_the_engine_was_loaded_is_a_failure_to_load_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "Preparer", lambda *_: 1 / 0)
    heard: list[BaseException] = []

    async def story() -> None:
        found = pipeline_service.Service(
            settings(tmp_path), ScriptedEngine(), problems.explain, heard.append
        )
        await found.start()
        async with asyncio.timeout(60):
            while not heard:
                await asyncio.sleep(0.01)
        await found.close()

    asyncio.run(story())
    assert isinstance(heard[0], ZeroDivisionError)


async def test_a_task_that_failed_is_started_again_and_a_vital_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "_RESTART_SECONDS", 0.001)
    runs: list[str] = []
    failed: list[str] = []
    tasks = background.Background(failed.append)

    def work(name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            runs.append(name)
            if runs.count(name) < 3:
                raise OSError(name)
            await asyncio.sleep(3600)

        return run

    tasks.start("a", work("a"))
    tasks.start("b", work("b"), vital=True)
    async with asyncio.timeout(20):
        while runs.count("a") < 3:
            await asyncio.sleep(0.001)
    assert failed.count("a") == 2 and runs.count("b") == failed.count("b") == 1
    assert tasks.lost == "b"
    await tasks.close()
