"""Replicas that share results through a real Redis, and go on without it."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from capo_service.pipeline import result_cache
from kit_scripted import ScriptedEngine
from kit_service import body, eventually, serving, settings


@pytest.fixture
def redis(debian: ModuleType, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    debian.unpack(["redis-server"])
    path = tmp_path / "redis.sock"
    process = subprocess.Popen(
        [debian.program("redis-server"), "--port", "0", "--unixsocket", str(path), "--save", "",
         "--appendonly", "no", "--dir", str(tmp_path)],
        env=debian.environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def answers() -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                probe.sendall(b"PING\r\n")
                return probe.recv(10).startswith(b"+PONG")
        except OSError:
            return False

    eventually(answers)
    yield f"unix://{path}", process
    process.kill()
    process.wait()


def cached(url: str, **more: Any) -> bool:
    answer = httpx.post(f"{url}/credit", json=body(**more))
    [found] = answer.json()["results"]
    assert found["status"] == "ok", found
    return bool(found["cached"])


def test_replicas_share_results_and_do_not_need_redis_to_work(
    redis: tuple[str, subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_cache, "_RETRY_SECONDS", 3600.0)
    url, process = redis
    given: dict[str, Any] = {"result_cache": url}
    engines = ScriptedEngine(), ScriptedEngine()
    with (
        serving(engines[0], settings(tmp_path, **given)) as one,
        serving(engines[1], settings(tmp_path, **given)) as two,
        serving(ScriptedEngine(), settings(tmp_path, critique_style="full", **given)) as other,
    ):
        assert not cached(one.url)
        assert cached(two.url) and not engines[1].prompts
        assert not cached(other.url), "another style of critique is another judge"

        process.kill()
        process.wait()
        assert not cached(two.url)

        def failures() -> int:
            text = httpx.get(f"{two.url}/metrics").text
            return text.count('capo_result_cache_total{result="error"} 1.0')

        assert failures() == 1
        for seed in range(20):  # it is left alone, so that nobody waits for it each time
            assert not cached(two.url, voting={"seed": seed})
        assert failures() == 1


def test_results_are_forgotten_in_time(
    redis: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"result_cache": redis[0], "result_cache_seconds": 5.0}
    with serving(ScriptedEngine(), settings(tmp_path, **given)) as service:
        assert not cached(service.url)
        assert cached(service.url)
        eventually(lambda: not cached(service.url))


@pytest.mark.parametrize("fault", ["full", "stopped"])
def test_a_redis_that_is_full_or_hangs_costs_no_result(
    redis: tuple[str, subprocess.Popen[bytes]], tmp_path: Path, fault: str
) -> None:
    url, process = redis
    with serving(ScriptedEngine(), settings(tmp_path, result_cache=url)) as service:
        assert not cached(service.url) and cached(service.url)
        if fault == "full":  # as a disk or memory that holds no more: reads work, writes do not
            with socket.socket(socket.AF_UNIX) as admin:
                admin.connect(url.removeprefix("unix://"))
                admin.sendall(b"CONFIG SET maxmemory 1 maxmemory-policy noeviction\r\n")
                assert admin.recv(10).startswith(b"+OK")
        else:
            process.send_signal(signal.SIGSTOP)
        for seed in range(5):
            assert not cached(service.url, voting={"seed": seed})
        text = httpx.get(f"{service.url}/metrics").text
        assert 'capo_result_cache_total{result="error"} 1.0' in text
        if fault == "stopped":
            process.send_signal(signal.SIGCONT)
            # It rests a few seconds after a failure, then is asked again.
            eventually(lambda: cached(service.url))
