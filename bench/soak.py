"""Half an hour at saturation: do memory and descriptors stay level? On the real engine.

    make bench-soak                               # a table, and build/bench/soak.json
    .venv/bin/python bench/soak.py --minutes 5

The callers of bench/overload.py offer three times what the service can do; a cache of results of a
few MiB is filled and emptied over and over. Every ten seconds memory and open descriptors of the
service's process and memory of its children (engine, verifiers) are noted; the slopes are those of
a straight line through the last three quarters (least squares).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from statistics import linear_regression
from typing import Any

import psutil
from engines import LOGS, OUT, service
from overload import capacity_of, flood
from rich.console import Console
from rich.table import Table
from running import Source

TIMES = 3.0
EVERY_S = 10.0
MIB = 2.0**20


def served_by(url: str) -> psutil.Process:
    """The process of `capo serve` behind a URL."""
    port = url.rpartition(":")[2]
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[-2:] == ["--port", port]:
            return process
    raise RuntimeError(f"no process serves {url}")


async def watch(process: psutil.Process, samples: list[dict[str, float]]) -> None:
    """Note what the process tree holds, until cancelled."""
    started = time.monotonic()
    while True:
        children = sum(child.memory_info().rss for child in process.children(recursive=True))
        sample = {
            "seconds": time.monotonic() - started, "descriptors": float(process.num_fds()),
            "service_mib": process.memory_info().rss / MIB, "children_mib": children / MIB,
        }  # fmt: skip
        samples.append(sample)
        print(json.dumps(sample), flush=True)
        await asyncio.sleep(EVERY_S)


async def soak(url: str, made: Source, rate: float, seconds: float) -> dict[str, Any]:
    samples: list[dict[str, float]] = []
    watching = asyncio.create_task(watch(served_by(url), samples))
    try:
        found = await flood(url, made, rate, seconds)
    finally:
        watching.cancel()
    late = samples[len(samples) // 4 :]
    hours = [sample["seconds"] / 3600 for sample in late]
    for name in ("service_mib", "children_mib", "descriptors"):
        values = [sample[name] for sample in late]
        found[f"{name}_per_hour"] = linear_regression(hours, values).slope
        found[f"{name}_range"] = [min(values), max(values)]
    return found | {"samples": samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    given = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    made = Source(None)
    cache = {"CAPO_RESULT_CACHE": "memory", "CAPO_RESULT_CACHE_BYTES": str(4 << 20)}
    with service("verdict", **cache) as url:
        capacity = capacity_of(url, made)
        found = asyncio.run(soak(url, made, TIMES * capacity, 60 * given.minutes))
    found["minutes"] = given.minutes
    (OUT / "soak.json").write_text(json.dumps(found, indent=2) + "\n")
    table = Table("", "measured", title=f"{given.minutes:g} minutes at saturation")
    for name, value in found.items():
        if name != "samples":
            shown = f"{value:.4g}" if isinstance(value, float) else f"{value}"
            table.add_row(name.replace("_", " "), shown)
    Console().print(table)


if __name__ == "__main__":
    main()
