"""Runs CPU work on one thread, off the event loop.

The interpreter runs one thread at a time, so with several threads the event loop would wait for
each of them in turn. The interpreter's switch interval is set to 1 ms, a fifth of the default; it
bounds how long the event loop waits.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_SWITCH_SECONDS = 0.001
_thread = ThreadPoolExecutor(1, "capo-cpu", partial(sys.setswitchinterval, _SWITCH_SECONDS))


async def off_loop(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` on the CPU thread and return its result; other coroutines run meanwhile."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_thread, partial(work, *args, **kwargs))
