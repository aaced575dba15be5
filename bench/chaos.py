"""A training-like load under random faults, on the real engine.

    make chaos                       # five minutes; a table, and build/bench/chaos.json
    .venv/bin/python bench/chaos.py --minutes 1 --seed 7

A trainer credits groups of rollouts as they finish, with a client of default retries. Meanwhile the
engine is killed or stopped, a verifying process is killed, the service itself is killed (and
started again, as a container platform would), and callers go wrong on purpose: slow headers, half
closed sockets, requests that hang up. Exits with 1 if a rollout was lost, credited twice, credited
with the wrong number of rewards, or with the wrong outcome.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

import capo_wire as wire
from capo_client import AsyncCreditClient
from capo_client.cli.ports import free_port

OUT = Path("build/bench")
GROUPS, GROUP = 4, 4  # of a step: questions, and rollouts of each
VOTING = {"n": 2}
DEADLINE_S = 600.0
PAUSE = (12.0, 40.0)  # seconds between faults
QUIET_SECONDS = 20.0  # before the first
RAW = 2  # callers without a client, who see each fault as it is


class Platform:
    """Runs the service, and starts it again when it ends: what Docker or Kubernetes does."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.starts = 0
        self._log = log.open("w")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        settings = {
            "CAPO_MODEL": "embedded", "CAPO_CRITIQUE_STYLE": "verdict",
            "CAPO_NONCE_SECRET": "bench", "CAPO_READ_SECONDS": "5", "CAPO_CANARY_SECONDS": "10",
            "OMP_NUM_THREADS": str(os.cpu_count()),
        }  # fmt: skip
        command = [sys.executable, "-m", "capo_client", "serve", "--port", str(self.port)]
        return subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env=os.environ | settings
        )

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self.process.poll() is not None:
                self.process = self._start()

    def children(self, name: str) -> list[psutil.Process]:
        found = []
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if name in " ".join([child.name(), *child.cmdline()]):
                        found.append(child)
        return found

    def is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200
        return False

    def close(self) -> None:
        # Whatever was killed may have left children of its own.
        family = [*self.children("")]
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        for process in family:
            with suppress(psutil.Error):
                process.kill()


def made(step: int, chance: random.Random) -> list[tuple[dict[str, Any], float]]:
    """A step's rollouts with the outcome that each must get, and tokens of a few characters."""
    found = []
    for group in range(GROUPS):
        a, b, c = (chance.randint(2, 40) for _ in range(3))
        for member in range(GROUP):
            right = chance.random() < 0.5
            answer = a * b + c + (0 if right else chance.randint(1, 9))
            text = f"{a} * {b} = {a * b}.\n\n{a * b} + {c} = {answer}.\n\n#### {answer}"
            ends = [*range(3, len(text), 3), len(text)]
            offsets = list(zip([0, *ends[:-1]], ends, strict=True))
            rollout = {
                "id": f"{step}.{group}.{member}",
                "question": f"What is {a} * {b} + {c}? (problem {step}.{group})",
                "response": text, "reference": f"#### {a * b + c}", "token_offsets": offsets,
            }  # fmt: skip
            found.append((rollout, float(right)))
    return found


class Trainer:
    """Credits one step after the other; all that counts is what comes back."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._chance = random.Random(seed)
        self.sent = self.credited = self.lost = self.double = 0
        self.wrong_length = self.wrong_outcome = self.steps = 0
        self.reasons: Counter[str] = Counter()

    async def run(self, until: float) -> None:
        async with AsyncCreditClient(self._url, batch_size=GROUP) as client:
            while time.monotonic() < until:
                await self._step(client)

    async def _step(self, client: AsyncCreditClient) -> None:
        batch = made(self.steps, self._chance)
        self.steps += 1
        came: Counter[int] = Counter()
        async with client.session(deadline=DEADLINE_S, voting=VOTING) as session:
            for start in range(0, len(batch), GROUP):
                session.submit([rollout for rollout, _ in batch[start : start + GROUP]])
                await asyncio.sleep(0.2)  # as groups finish
            async for position, result in session.results():
                came[position] += 1
                self._check(*batch[position], result)
        self.sent += len(batch)
        self.lost += sum(1 for position in range(len(batch)) if not came[position])
        self.double += sum(count - 1 for count in came.values() if count > 1)

    def _check(
        self, rollout: dict[str, Any], outcome: float, result: wire.Credited | wire.Failed
    ) -> None:
        if isinstance(result, wire.Failed):
            self.lost += 1
            self.reasons[f"{result.error.status} {result.error.detail}"] += 1
            return
        self.credited += 1
        assert result.id == rollout["id"]
        self.wrong_length += len(result.token_rewards or ()) != len(rollout["token_offsets"])
        self.wrong_outcome += result.outcome is None or result.outcome.value != outcome


class RawCallers:
    """Send requests without retries continuously, to see each fault as a client does."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.waiting: dict[int, float] = {}  # call -> since when
        self.statuses: Counter[str] = Counter()
        self._number = 0

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=120) as http:
            await asyncio.gather(*(self._ask(http) for _ in range(RAW)))

    async def _ask(self, http: httpx.AsyncClient) -> None:
        while True:
            self._number += 1
            number = self._number
            rollout = {"question": "q", "response": f"{number} + 0 = {number}.", "outcome": 1}
            self.waiting[number] = time.monotonic()
            try:
                answer = await http.post(
                    f"{self._url}/credit",
                    json={"rollouts": [rollout], "voting": {"n": 1}, "deadline_ms": 60_000},
                )
                name = str(answer.status_code)
                if answer.status_code >= 400:
                    name += " " + answer.json()["type"].rpartition(":")[2]
            except httpx.TransportError as error:
                name = type(error).__name__
            del self.waiting[number]
            self.statuses[name] += 1
            await asyncio.sleep(0.2)

    async def answered_after(self, at: float) -> float:
        """Seconds until all requests in flight at that time had a response."""
        asked = {number for number, since in self.waiting.items() if since <= at}
        while asked & self.waiting.keys():
            await asyncio.sleep(0.02)
        return time.monotonic() - at


def send(url: str, *parts: bytes, shut: bool = False) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    for part in parts:
        connection.sendall(part)
    if shut:
        connection.shutdown(socket.SHUT_WR)
    return connection


HEAD = b"POST /credit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class Faults:
    """What goes wrong, by name."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._held: list[socket.socket] = []
        self.all: dict[str, Callable[[], bool]] = {
            "engine killed": lambda: self._signal("EngineCore", signal.SIGKILL),
            "engine stopped": lambda: self._signal("EngineCore", signal.SIGSTOP),
            "engine's worker killed": lambda: self._signal("VLLM::Worker", signal.SIGKILL),
            "verifiers killed": lambda: self._signal("spawn_main", signal.SIGKILL, verifiers=True),
            "service killed": self._kill_service,
            "callers go wrong": self._bad_callers,
        }

    def _signal(self, name: str, what: signal.Signals, verifiers: bool = False) -> bool:
        found = self._platform.children(name)
        if verifiers:  # vLLM names its own; what is left is the verifier's
            found = [p for p in found if not p.children() and "Vllm" not in p.name()]
            found = [p for p in found if p.ppid() == self._platform.process.pid]
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(what)
        return bool(found)

    def _kill_service(self) -> bool:
        self._platform.process.kill()
        return True

    def _bad_callers(self) -> bool:
        for connection in self._held:
            connection.close()
        body = json.dumps(
            {"rollouts": [{"question": "q", "response": "a\n\nb", "outcome": 1}]}
        ).encode()
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        with suppress(OSError):
            self._held = [send(self._platform.url, HEAD) for _ in range(50)]
            self._held += [
                send(self._platform.url, HEAD + length, body, shut=True) for _ in range(10)
            ]
            self._held += [send(self._platform.url, HEAD + length, body[:20]) for _ in range(10)]
            for _ in range(10):
                send(self._platform.url, HEAD + length, body).close()
            return True
        return False


async def run(minutes: float, seed: int) -> dict[str, Any]:
    platform = Platform(OUT / "chaos.log")
    background: list[asyncio.Task[None]] = []
    try:
        background.append(asyncio.create_task(platform.watch()))
        while not await asyncio.to_thread(platform.is_ready):
            await asyncio.sleep(0.5)
        trainer, raw, faults = (
            Trainer(platform.url, seed),
            RawCallers(platform.url),
            Faults(platform),
        )
        until = time.monotonic() + 60 * minutes
        background.append(asyncio.create_task(raw.run()))
        training = asyncio.create_task(trainer.run(until))
        happened = await _fail(platform, raw, faults, random.Random(seed + 1), until)
        await training
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        platform.close()
    return {
        "minutes": minutes, "seed": seed, "steps": trainer.steps, "sent": trainer.sent,
        "credited": trainer.credited, "lost": trainer.lost, "double_credited": trainer.double,
        "wrong_length": trainer.wrong_length, "wrong_outcome": trainer.wrong_outcome,
        "service_starts": platform.starts, "lost_because": dict(trainer.reasons),
        "answers_without_retries": dict(raw.statuses.most_common()), "faults": happened,
    }  # fmt: skip


async def _fail(
    platform: Platform, raw: RawCallers, faults: Faults, chance: random.Random, until: float
) -> list[dict[str, Any]]:
    happened: list[dict[str, Any]] = []
    await asyncio.sleep(QUIET_SECONDS)
    names: list[str] = []
    while time.monotonic() < until:
        if not names:  # each once, in another order, before any comes again
            names = chance.sample(sorted(faults.all), len(faults.all))
        name, at = names.pop(), time.monotonic()
        if not await asyncio.to_thread(faults.all[name]):
            continue  # there was nothing to break: it is being started again
        answered = await raw.answered_after(at)
        while not await asyncio.to_thread(platform.is_ready):
            await asyncio.sleep(0.2)
        fault = {"fault": name, "answered_s": answered, "ready_s": time.monotonic() - at}
        print(
            f"{name}: answered after {answered:.1f} s, ready after {fault['ready_s']:.1f} s",
            flush=True,
        )
        happened.append(fault)
        await asyncio.sleep(chance.uniform(*PAUSE))
    return happened


def show(found: dict[str, Any]) -> None:
    table = Table("fault", "times", "waiting callers answered (longest)", "ready again (median)")
    for name in sorted({fault["fault"] for fault in found["faults"]}):
        mine = [fault for fault in found["faults"] if fault["fault"] == name]
        table.add_row(
            name, str(len(mine)), f"{max(f['answered_s'] for f in mine):.1f} s",
            f"{median(f['ready_s'] for f in mine):.1f} s",
        )  # fmt: skip
    Console(width=100).print(table)
    print("answers without retries:", found["answers_without_retries"])
    for name in ("sent", "credited", "lost", "double_credited", "wrong_length", "wrong_outcome"):
        print(f"{name.replace('_', ' ')}: {found[name]}")
    if found["lost_because"]:
        print("lost because:", found["lost_because"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    found = asyncio.run(run(given.minutes, given.seed))
    (OUT / "chaos.json").write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    bad = ("lost", "double_credited", "wrong_length", "wrong_outcome")
    if any(found[name] for name in bad) or not found["faults"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
