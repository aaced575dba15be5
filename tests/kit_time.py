"""An event loop whose time is its own: a sleep takes no time, and as long as it says."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _Selector(selectors.SelectSelector):
    """Moves the time to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("every task waits for something that will not come")
        self.now += max(timeout, 0.0)
        return super().select(0)


class SteppedLoop(asyncio.SelectorEventLoop):
    """For code that waits for timers and for other tasks, but for no socket, thread or process."""

    def __init__(self) -> None:
        self._timer = _Selector()
        super().__init__(self._timer)

    def time(self) -> float:
        return self._timer.now


def stepped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An async test, run on a `SteppedLoop`."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=SteppedLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def now() -> float:
    """Seconds since the running loop began: what code under test takes for its clock."""
    return asyncio.get_running_loop().time()
