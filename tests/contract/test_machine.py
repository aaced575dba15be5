"""What the machine under a service may do: jump its clock, fill its disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from capo_client import CreditClient
from capo_client.cli.ports import free_port
from kit_service import body

HERE = Path(__file__).parents[1]

# Wall-clock time, shifted by the seconds that stand in a file.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long shift(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("SHIFT_FILE"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t which, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, at);
    if (!failed && which == CLOCK_REALTIME) at->tv_sec += shift();
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


@contextmanager
def scripted(
    out: Any, delay: float = 0.0, environment: dict[str, str] | None = None, **given: Any
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    asked = {"port": port, "verify_workers": 1, "nonce_secret": "s", **given}
    command = [sys.executable, str(HERE / "serve_scripted.py"), json.dumps(asked), str(delay)]
    process = subprocess.Popen(
        command, stdout=out, stderr=out, env={**os.environ, **(environment or {})}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        yield url, process
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    source, shim, shift = tmp_path / "shim.c", tmp_path / "shim.so", tmp_path / "shift"
    source.write_text(SHIM)
    shift.write_text("0")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
    environment = {"LD_PRELOAD": str(shim), "SHIFT_FILE": str(shift)}
    keys = tmp_path / "keys.toml"
    made = subprocess.run(
        [sys.executable, "-m", "capo_client", "key", "team"],
        capture_output=True,
        text=True,
        check=True,
    )
    keys.write_text(made.stdout + "rollouts_per_minute = 600\n")
    key = made.stderr.split()[-1]
    with (tmp_path / "log").open("wb") as log:
        given = {"api_keys_file": str(keys), "result_cache_seconds": 600}
        with (
            scripted(log, 0.05, environment, **given) as (url, _),
            CreditClient(url, api_key=key) as client,
        ):

            def seen() -> datetime:
                return parsedate_to_datetime(httpx.get(f"{url}/health/live").headers["date"])

            began = seen()
            for number, days in enumerate((0, 1, -2, 3650, 0)):
                shift.write_text(str(days * 86400))
                time.sleep(1.2)  # uvicorn looks at the clock once a second
                assert abs(seen() - began - timedelta(days=days)) < timedelta(hours=1)
                rollouts = [
                    {"question": "q", "response": f"a\n\n{number} {i}", "reference": "#### 1"}
                    for i in range(20)
                ]
                assert len(client.credit(rollouts).raise_for_errors().credited) == 20
                again = client.credit(rollouts).raise_for_errors()
                assert all(result.cached for result in again.credited)
                answer = httpx.post(
                    f"{url}/credit", json=body({**rollouts[0], "question": f"{number}"}),
                    headers={"Authorization": f"Bearer {key}"},
                )  # fmt: skip
                timing = answer.json()["timing_ms"]
                assert 0 <= timing["queue"] < 60_000 and 0 < timing["total"] < 60_000


def test_a_full_disk_under_the_log_stops_nobody() -> None:
    with Path("/dev/full").open("wb") as full, scripted(full, log_level="debug") as (url, process):
        for number in range(5):
            rollout = {"question": "q", "response": f"a\n\n{number}", "outcome": 1}
            assert httpx.post(f"{url}/credit", json=body(rollout)).status_code == 200
        assert process.poll() is None


def test_a_full_disk_under_the_cache_of_models_is_explained(tmp_path: Path) -> None:
    """As where no byte more can be written: no file may grow over a megabyte here."""

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [sys.executable, "-m", "capo_client", "serve", "embedded", "--port", str(free_port())],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, preexec_fn=no_room,
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 4
    assert "the judge cannot be loaded: the embedded model cannot be unpacked" in done.stderr
    assert "XDG_CACHE_HOME" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.safetensors")), "what was begun is taken away"
