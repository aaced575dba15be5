"""Python's cyclic garbage collector, kept out of the way of requests.

A full collection looks at every object there is and holds the interpreter meanwhile: 40 ms for
what the libraries of this service have made when it is ready, more with large batches in flight.
Here what is there at start is never looked at again, young garbage is collected as always, and
full collections wait until nothing is in flight.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

_YOUNG, _MIDDLE, _NEVER = 2_000, 10, 1_000_000
_EVERY_SECONDS = 60
_MOST_SKIPPED = 10  # after so many, a busy service is made to wait once


def settle() -> None:
    """Call once, when everything that lasts has been made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)


async def collect_when_idle(is_idle: Callable[[], bool]) -> None:
    """Make full collections, where `settle` was called; until cancelled."""
    skipped = 0
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        if not gc.get_freeze_count():
            continue
        if is_idle() or skipped >= _MOST_SKIPPED:
            gc.collect()
            skipped = 0
        else:
            skipped += 1
