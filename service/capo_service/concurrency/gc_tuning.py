"""Python's cyclic garbage collector, tuned so that it does not delay requests.

A full collection visits every object and holds the interpreter meanwhile: 40 ms for the objects of
the imported libraries when the service is ready, more with large batches in flight. Therefore the
objects that exist at start are exempted, young objects are collected as usual, and full collections
wait until no request is in flight.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

_YOUNG, _MIDDLE, _NEVER = 2_000, 10, 1_000_000
_INTERVAL_SECONDS = 60
_MAX_SKIPPED = 10  # intervals, after which a busy service is interrupted for a collection


def freeze_existing() -> None:
    """Exempt all existing objects, and stop automatic full collections. Call once, when ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)


async def collect_when_idle(is_idle: Callable[[], bool]) -> None:
    """Make full collections, if `freeze_existing` was called; runs until it is cancelled."""
    skipped = 0
    while True:
        await asyncio.sleep(_INTERVAL_SECONDS)
        if not gc.get_freeze_count():
            continue
        if is_idle() or skipped >= _MAX_SKIPPED:
            gc.collect()
            skipped = 0
        else:
            skipped += 1
