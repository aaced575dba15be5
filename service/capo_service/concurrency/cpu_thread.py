"""CPU work off the event loop: on one thread, for the interpreter runs one at a time anyway.

With several, the loop would have to wait for each of them in turn before it runs again; and the
interpreter is asked to change threads five times as often as by default, so that it waits for a
millisecond.
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
    """What `work` returns; other coroutines run meanwhile."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_thread, partial(work, *args, **kwargs))
