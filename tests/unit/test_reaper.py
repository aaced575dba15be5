"""A service that is killed takes its engine's processes with it, and no others."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from capo_service.engine.orphan_reaper import OrphanReaper

# Starts a child, registers it, prints both process ids, and waits.
SERVICE = """
import subprocess, sys, time
from capo_service.engine.orphan_reaper import OrphanReaper
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
reaper = OrphanReaper([child.pid])
print(child.pid, reaper._process.pid, flush=True)
time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_service_that_is_killed_leaves_no_engine_behind() -> None:
    service = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    child, reaper = map(int, service.stdout.readline().split())
    assert not gone(child)
    service.kill()
    service.wait()
    until = time.monotonic() + 20
    while not (gone(child) and gone(reaper)):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_closed_reaper_leaves_the_processes_running() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        reaper = OrphanReaper([child.pid, 2**22 + 1])
        reaper.close()
        time.sleep(0.2)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
