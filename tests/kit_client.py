"""What tests of the client run in processes of their own, which can import this and not the tests."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from typing import Any

from capo_client import CreditClient

HANG = 60  # seconds after which something hangs
ROLLOUTS = [{"question": "q", "response": "a", "outcome": 1}]


def credit(client: CreditClient) -> int:
    return len(client.credit(ROLLOUTS, deadline=HANG).credited)


def bad_options(client: Any) -> None:
    client.credit(ROLLOUTS, voting={"n": 0})


def many_clients(url: str, closing: bool, count: int = 1000) -> tuple[int, int]:
    """How many descriptors and threads are left of so many clients."""
    with CreditClient(url) as client:
        credit(client)  # the thread that all clients share
    gc.collect()
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(count):
        client = CreditClient(url)
        credit(client)
        if closing:
            client.close()
    del client
    gc.collect()
    left = 20
    until = time.monotonic() + HANG
    while left >= 20 and time.monotonic() < until:  # the shared thread closes them when it can
        time.sleep(0.01)
        left = len(os.listdir("/proc/self/fd")) - before
    return left, threading.active_count() - threads


if __name__ == "__main__":
    print(*many_clients(sys.argv[1], sys.argv[2] == "close"))
