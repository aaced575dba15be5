"""A service that runs out of file descriptors answers late or asks to come back; nothing is lost."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from capo_client import AsyncCreditClient, Rollout
from capo_client.cli.ports import free_port
from capo_service.engine.base import CritiqueSampling
from kit_engine import Running, running
from kit_scripted import ScriptedEngine, nothing_wrong
from kit_service import body, serving, settings

DESCRIPTORS = 256
RETRYABLE = {0, 429, 503}  # 0: the connection broke


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    port = free_port()
    serve = f"{sys.executable} -m capo_client serve --engine symbolic --port {port}"
    # Hard limit too: `capo serve` raises the soft one to it.
    command = ["bash", "-c", f"ulimit -n {DESCRIPTORS}; exec {serve} --set read_seconds=5"]
    with running(command, port, "/health/ready", tmp_path / "log", "symbolic") as found:
        yield found


async def flood(url: str, count: int) -> list[httpx.Response | None]:
    """Each on a connection of its own, and each with an answer to verify; None where that broke."""
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as http:

        async def one(number: int) -> httpx.Response | None:
            rollout = {"question": f"q{number}", "response": f"#### {number}", "reference": "7"}
            try:
                return await http.post("/credit", json=body(rollout, {**rollout, "id": "b"}))
            except httpx.TransportError:  # as libuv closes what it has no descriptor for
                return None

        return await asyncio.gather(*map(one, range(count)))


def statuses(answers: list[httpx.Response | None]) -> Counter[int]:
    """Of the answers, and of the results in them; 0 for a connection that broke."""
    found: Counter[int] = Counter()
    for answer in answers:
        if answer is None:
            found[0] += 1
            continue
        if answer.status_code != 200:
            found[answer.status_code] += 1
            continue
        results: list[dict[str, Any]] = answer.json()["results"]
        found.update(r["error"]["status"] if "error" in r else 200 for r in results)
    return found


def test_more_connections_than_descriptors_lose_nothing(service: Running) -> None:
    answers = asyncio.run(flood(service.url, 2 * DESCRIPTORS))
    assert len(answers) == 2 * DESCRIPTORS
    found = statuses(answers)
    assert set(found) <= {200} | RETRYABLE, (found, service.log.read_text()[-3000:])
    assert found[200] > 0
    until = time.monotonic() + 30  # the flood's connections may not be closed on its side yet
    while (again := statuses(asyncio.run(flood(service.url, 20)))) != {200: 40}:
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    assert again == {200: 40}, service.log.read_text()[-3000:]


async def credit(url: str, count: int) -> int:
    """How many of so many rollouts our client gets credited, each in a request of its own."""
    rollouts = [
        Rollout(question=f"q{number}", response=f"#### {number}", reference="7")
        for number in range(count)
    ]
    async with AsyncCreditClient(url, batch_size=1, concurrency=count) as client:
        return len((await client.credit(rollouts, deadline=120)).credited)


def test_a_client_that_comes_again_loses_nothing(service: Running) -> None:
    """With twice as many connections as descriptors, all at once."""
    assert asyncio.run(credit(service.url, 2 * DESCRIPTORS)) == 2 * DESCRIPTORS


def test_connections_that_are_only_held_are_given_up(service: Running) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with ExitStack() as held:
        for _ in range(2 * DESCRIPTORS):
            connection = held.enter_context(socket.socket())
            connection.settimeout(60)
            connection.connect((host, int(port)))
        assert asyncio.run(credit(service.url, 50)) == 50
    assert service.process.poll() is None
    log = service.log.read_text()
    assert "background task failed" not in log and "unexpected" not in log, log[-3000:]
    assert httpx.get(f"{service.url}/metrics").status_code == 200


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_work_that_finds_no_descriptor_is_to_be_tried_again(tmp_path: Path, number: int) -> None:
    failing = True

    def script(prompt: str, sampling: CritiqueSampling) -> str:
        if failing:
            raise OSError(number, "Too many open files")
        return nothing_wrong(prompt, sampling)

    with serving(ScriptedEngine(script), settings(tmp_path)) as found:
        refused = httpx.post(f"{found.url}/credit", json=body())
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert "file descriptor" in refused.json()["detail"]
        failing = False
        assert httpx.post(f"{found.url}/credit", json=body()).status_code == 200
