"""The service's own ceiling: rollouts/s of one core with an engine that answers at once.

    make bench-ceiling                       # a table, and build/bench/ceiling.json, 3 minutes
    python bench/ceiling.py --quick          # a few seconds
    python bench/ceiling.py --before FOLDER  # also the service of another checkout, in turns

`capo serve` runs on one core, the client on another; bodies are serialised before the clock starts
and answers are only counted. Groups of 16 rollouts of a question, k = 4; no question and no step is
sent twice. Included: HTTP, JSON,
checks, alignment, reward-hacking checks, the judge's prompt and its encoding with the embedded
judge's tokenizer, critiques, votes, rewards, the result cache, the answer. Not included: vLLM's
front end (bench/frontend.py), and the engine.

Rates are rollouts per second of the service's processor time, which other programs on the machine
change little; `wall` has those of the clock. Each length is sent in several ways, in turns:

    lengths   `token_lengths`, and no `token_rewards` in the answer: the client's default
    ids       `response_token_ids` with the name of a served tokenizer, no `token_rewards`
    offsets   `token_offsets` as pairs and `token_rewards` in the answer: the client's former way

Last, the service's greatest memory while all rollouts of a training step wait for the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from ceiling_requests import BATCH, CONNECTIONS, TOKENIZER, WAYS, Caller, body
from rich.console import Console
from rich.table import Table

from capo_client.cli.ports import free_port
from capo_service.engine import embedded

OUT = Path("build/bench/ceiling.json")
LOGS = Path("build/bench/ceiling")
LENGTHS, K = (300, 2000, 8000), 4
TICKS = os.sysconf("SC_CLK_TCK")
# Room for all rollouts of the memory measurement.
SETTINGS = {
    "max_queued_tokens": 1 << 30,
    "max_running": 2048,
    "verify_workers": 1,  # outcomes are given; a busy machine is slow to start it
    "verify_timeout": 60,
    "read_seconds": 600,
    "log_level": "warning",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, less exact")
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--way", action="append", choices=WAYS, help="repeatable; all by default")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    rounds, seconds, held = (1, 0.3, 64) if args.quick else (3, 3.0, 1024)
    LOGS.mkdir(parents=True, exist_ok=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    ways = tuple(args.way or WAYS)
    bodies = {(way, length): body(way, length) for way in ways for length in LENGTHS}
    report = {
        "machine": {"cores": len(cores), "batch": BATCH, "connections": CONNECTIONS, "k": K},
        "included": "HTTP, JSON, checks, alignment, reward-hacking checks, prompt and its encoding "
        "(embedded judge's tokenizer), critiques, votes, rewards, result cache, answer",
        "not_included": "vLLM's front end, the engine",
        **measure(bodies, cores[0], rounds, seconds, args.before),
        **memory(bodies, cores[0], held),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    show(report)
    print(f"written to {args.out}")


@dataclass(frozen=True, slots=True)
class Served:
    """A service on one core."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak_gib(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / (1 << 20) if found else 0.0


@contextmanager
def service(core: int, held: int = 0, root: Path | None = None) -> Iterator[Served]:
    """The service; of the checkout at `root`, if one is given."""
    port = free_port()
    settings = SETTINGS | {"port": port, "tokenizers": {TOKENIZER: str(embedded.folder())}}
    script = Path(__file__).with_name("ceiling_service.py")
    paths = [str(root / name) for name in ("service", "client")] if root else []
    command = [sys.executable, str(script), json.dumps(settings), str(core), str(held)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    if paths:
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    name = f"{'before' if root else 'now'}-{held}.log"
    with (LOGS / name).open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    served = Served(port, process.pid)
    try:
        wait_until_ready(served, process, LOGS / name)
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_until_ready(served: Served, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended: see {log}")
        try:
            if httpx.get(f"{served.url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the service did not become ready: see {log}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: rollouts/s of processor time, by the clock, and the loop's longest block."""

    rate: float
    wall: float
    blocked_ms: float


Key = tuple[str, str, int]  # service, way, length


def measure(
    bodies: dict[tuple[str, int], bytes],
    core: int,
    rounds: int,
    seconds: float,
    before: Path | None,
) -> dict[str, Any]:
    samples: dict[Key, list[Sample]] = {}
    with ExitStack() as stack:
        services = {"now": stack.enter_context(service(core))}
        if before is not None:
            services["before"] = stack.enter_context(service(core, root=before))
        for turn in range(rounds + 1):  # the first warms up
            for (way, length), sent in bodies.items():
                for name, served in services.items():
                    if (name, way) != ("before", "lengths"):  # which it does not know
                        sample = asyncio.run(one(served, sent, seconds if turn else 0.0))
                        samples.setdefault((name, way, length), []).append(sample)
    report: dict[str, Any] = {}
    for (name, way, length), taken in samples.items():
        entry = report.setdefault(name, {}).setdefault(way, {}).setdefault(str(length), {})
        entry["rollouts_per_s"] = round(median(each.rate for each in taken[1:]), 1)
        entry["wall"] = round(median(each.wall for each in taken[1:]), 1)
        entry["loop_blocked_ms"] = max(each.blocked_ms for each in taken[1:])
        entry["body_bytes"] = len(bodies[way, length]) // BATCH
    return report | ratios(samples)


def ratios(samples: dict[Key, list[Sample]]) -> dict[str, float]:
    """The client's default way, and medians of its ratios to the former, round by round."""
    found: dict[str, float] = {}
    default = next(way for name, way, _ in samples)
    for length in LENGTHS:
        mine = [each.rate for each in samples["now", default, length][1:]]
        found[f"rollouts_per_s_{length}"] = round(median(mine), 1)
        for label, key in (("offsets", ("now", "offsets")), ("before", ("before", "offsets"))):
            others = [each.rate for each in samples.get((*key, length), [])[1:]]
            if others:
                by_round = [a / b for a, b in zip(mine, others, strict=True)]
                found[f"{label}_per_s_{length}"] = round(median(others), 1)
                found[f"ratio_to_{label}_{length}"] = round(median(by_round), 2)
    return found


async def one(served: Served, sent: bytes, seconds: float) -> Sample:
    caller = Caller(served.port, sent)
    blocks = loop_blocks(served.url)
    used, started = served.processor_seconds(), time.monotonic()
    count = await caller.until(started + seconds)
    wall, processor = time.monotonic() - started, served.processor_seconds() - used
    caller.check()
    after = loop_blocks(served.url)
    longest = max((edge for edge in after if after[edge] > blocks[edge]), default=0.0)
    return Sample(count / max(processor, 1 / TICKS), count / wall, 1000 * longest)


def loop_blocks(url: str) -> dict[float, float]:
    """Samples of the event loop's lag: upper edge of a bucket in seconds -> count in it."""
    text = httpx.get(f"{url}/metrics", timeout=60).text
    found = re.findall(r'^capo_loop_blocked_seconds_bucket{le="(.*)"} (\S+)$', text, re.MULTILINE)
    counts = [float(count) for _, count in found]
    pairs = zip(found, counts, [0.0, *counts], strict=False)
    return {float(edge): count - less for (edge, _), count, less in pairs}


def memory(bodies: dict[tuple[str, int], bytes], core: int, held: int) -> dict[str, Any]:
    """The greatest memory with `held` rollouts of 8,000 tokens in flight, by way."""
    found: dict[str, Any] = {}

    async def send(served: Served, sent: bytes) -> None:
        callers = [Caller(served.port, sent) for _ in range(held // BATCH)]

        async def call(caller: Caller) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1 << 26)
            await caller.once(reader, writer)
            writer.close()
            caller.check()

        await asyncio.gather(*map(call, callers))

    for (way, length), sent in bodies.items():
        if length == max(LENGTHS) and (way == "offsets" or not found):
            with service(core, K * held) as served:
                found[way] = {"idle_gib": round(served.peak_gib(), 3)}
                asyncio.run(send(served, sent))
                found[way]["peak_gib"] = round(served.peak_gib(), 3)
    first = next(iter(found.values()))
    return {"memory": found, "memory_rollouts": held, "peak_rss_gib": first["peak_gib"]}


def show(report: dict[str, Any]) -> None:
    table = Table(title=f"rollouts/s of one core, batches of {BATCH}, k = {K}")
    table.add_column("service, way")
    for length in LENGTHS:
        table.add_column(f"{length:,} tokens", justify="right")
    for name in ("now", "before"):
        for way, by_length in report.get(name, {}).items():
            cells = (by_length[str(length)]["rollouts_per_s"] for length in LENGTHS)
            table.add_row(f"{name}, {way}", *(f"{cell:,.0f}" for cell in cells))
    for label in ("offsets", "before"):
        if f"ratio_to_{label}_{LENGTHS[0]}" in report:
            cells = (report[f"ratio_to_{label}_{length}"] for length in LENGTHS)
            table.add_row(f"first way / {label}", *(f"{cell:.2f}" for cell in cells))
    Console().print(table)
    print(f"included: {report['included']}")
    print(f"not included: {report['not_included']}")
    for way, found in report["memory"].items():
        print(
            f"memory with {report['memory_rollouts']} rollouts of {max(LENGTHS):,} tokens in flight"
            f" ({way}): {found['peak_gib']:.2f} GiB, idle {found['idle_gib']:.2f}"
        )


if __name__ == "__main__":
    main()
