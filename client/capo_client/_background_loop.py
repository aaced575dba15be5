"""One event loop in a thread, for synchronous code.

All clients of a process share it, so that a client does not need a thread of its own. A forked
process starts another, because threads do not survive a fork.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
# A parent's loops stay referenced: collecting one in the child could close shared descriptors.
_inherited: list[asyncio.AbstractEventLoop | None] = []


def _get_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():
            _loop = asyncio.new_event_loop()
            # A daemon, so that a program that does not close its client can exit.
            _thread = threading.Thread(target=_loop.run_forever, name="capo-client", daemon=True)
            _thread.start()
        return _loop


def _forget() -> None:
    global _lock, _loop, _thread
    _inherited.append(_loop)
    _lock, _loop, _thread = threading.Lock(), None, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class BackgroundWork:
    """The coroutines that one owner runs on the shared loop. Thread-safe and fork-safe."""

    def __init__(self) -> None:
        self._started: weakref.WeakSet[Coroutine[Any, Any, Any]] = weakref.WeakSet()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` without waiting for it."""
        self._started.add(work)
        return asyncio.run_coroutine_threadsafe(work, _get_loop())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and wait for it; it is cancelled if the wait is interrupted.

        Raises:
            RuntimeError: called from the loop itself, which would wait for itself.
        """
        if threading.current_thread() is _thread:
            work.close()
            raise RuntimeError("a synchronous call from the client's own event loop would not end")
        future = self.start(work)
        try:
            return future.result()
        finally:
            future.cancel()  # has an effect only if the wait was interrupted

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel what is running, then run `last` and wait for it."""

        async def end() -> None:
            current = asyncio.current_task()
            running = [
                task
                for task in asyncio.all_tasks()
                if task is not current and task.get_coro() in self._started
            ]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await last()

        if threading.current_thread() is _thread:  # as from the garbage collector
            self.start(end())
        else:
            self.run(end())
