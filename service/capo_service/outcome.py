"""Outcome r_v: is the rollout's final answer right? Rule-based, by math-verify (CAPO, section 3.1).

Answers are parsed in worker processes with a time and memory limit: an expression made to hang a
computer-algebra system costs one worker, which is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import resource
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

from pebble import ProcessExpired, ProcessPool

from capo_client.answers import answer_part, as_maths
from capo_service.core.errors import InputError

_MEMORY_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome, 0 or 1, and why it is 0 where that is not plain."""

    value: float
    detail: str | None = None


class Verifier:
    """A pool of verifying processes. Call `start` once, `close` at the end."""

    def __init__(self, workers: int = 2, timeout: float = 3.0) -> None:
        self._timeout = timeout
        self._workers = workers
        self._pool: ProcessPool | None = None

    async def start(self) -> None:
        """Start the processes and load math-verify in them."""
        self._pool = ProcessPool(
            max_workers=self._workers,
            context=multiprocessing.get_context("spawn"),
            initializer=_prepare_worker,
        )
        await asyncio.wrap_future(self._pool.schedule(_verify, args=("1", "1")))

    async def verify(self, response: str, reference: str) -> Verified:
        """Compare the final answer of `response` with that of `reference`.

        The answer is what the last of `####` (GSM8K), `\\boxed{}` and `Answer:` marks, or what
        comes last.

        Raises:
            InputError: the reference holds no answer that can be read.
        """
        if self._pool is None:
            raise RuntimeError("start() comes first")
        future = self._pool.schedule(
            _verify,
            args=(answer_part(response), answer_part(reference)),
            timeout=self._timeout,
        )
        try:
            right = await asyncio.wrap_future(future)
        except FutureTimeoutError:
            return Verified(0.0, f"verification took over {self._timeout:g} s (verify_timeout)")
        except (ProcessExpired, MemoryError, RecursionError):
            return Verified(0.0, "verification exceeded its memory or died")
        if right is None:
            raise InputError(
                "reference holds no answer that math-verify can read; send outcome, or a "
                "reference that ends in `#### 42`, \\boxed{42} or the plain answer",
                field="reference",
                problem="unreadable-reference",
            )
        return Verified(float(right))

    async def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.stop()
            await asyncio.to_thread(self._pool.join)
            self._pool = None


def _prepare_worker() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    logging.disable(logging.WARNING)  # math-verify warns that its own time limit is off
    import math_verify  # noqa: F401  # loaded before the first time limit runs


def _verify(response: str, reference: str) -> bool | None:
    """Whether the answers agree; None when the reference has none. Runs in a worker."""
    from math_verify import parse, verify

    gold = parse(as_maths(reference), parsing_timeout=None)
    if not gold:
        return None
    answer = parse(as_maths(response), parsing_timeout=None)
    return bool(answer) and verify(gold, answer, timeout_seconds=None)
