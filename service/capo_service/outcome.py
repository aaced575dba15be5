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

log = logging.getLogger(__name__)

_MEMORY_BYTES = 4 << 30
_ATTEMPTS = 3  # with a process that dies under it
_START_SECONDS = 30.0  # for a process to start


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome, 0 or 1, and why it is 0 where that is not plain."""

    value: float
    detail: str | None = None


class _WorkerDiedError(Exception):
    """The worker died under a comparison, or could not be reached any more."""


class Verifier:
    """Verifying processes. Call `start` once, `close` at the end.

    Each is a pool of one: a process that is killed while it holds the lock of a pool's pipe leaves
    that pool broken, or hanging, for good. A pool that is either is replaced.
    """

    def __init__(self, workers: int = 2, timeout: float = 3.0) -> None:
        self._timeout = timeout
        self._workers = workers
        self._free: asyncio.Queue[ProcessPool] | None = None
        self._pools: set[ProcessPool] = set()
        self._ending: set[asyncio.Task[None]] = set()  # of pools that were replaced

    async def start(self) -> None:
        """Start the processes and load math-verify in them."""
        self._free = asyncio.Queue()
        for _ in range(self._workers):
            self._free.put_nowait(self._make())
        await self.verify("1", "1")

    def _make(self) -> ProcessPool:
        pool = ProcessPool(
            max_workers=1,
            context=multiprocessing.get_context("spawn"),
            initializer=_prepare_worker,
        )
        self._pools.add(pool)
        return pool

    async def verify(self, response: str, reference: str) -> Verified:
        """Compare the final answer of `response` with that of `reference`.

        The answer is what the last of `####` (GSM8K), `\\boxed{}` and `Answer:` marks, or what
        comes last.

        Raises:
            InputError: the reference holds no answer that can be read.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                right = await self._compare(answer_part(response), answer_part(reference))
                break
            except FutureTimeoutError:
                return Verified(0.0, f"verification took over {self._timeout:g} s (verify_timeout)")
            except (MemoryError, RecursionError):
                return Verified(0.0, "verification exceeded its memory")
            except _WorkerDiedError:  # which need not be this answer's fault
                if attempt == _ATTEMPTS:
                    return Verified(0.0, f"verification died {_ATTEMPTS} times")
        if right is None:
            raise InputError(
                "reference holds no answer that math-verify can read; send outcome, or a "
                "reference that ends in `#### 42`, \\boxed{42} or the plain answer",
                field="reference",
                problem="unreadable-reference",
            )
        return Verified(float(right))

    async def _compare(self, response: str, reference: str) -> bool | None:
        """As `_verify`, in the first process that is free.

        Raises:
            _WorkerDiedError: it died, or does not answer.
        """
        free = self._free
        if free is None:
            raise RuntimeError("start() comes first")
        pool = await free.get()
        try:
            # Its own limit ends what takes long; ours, a process that cannot be reached.
            async with asyncio.timeout(self._timeout + _START_SECONDS):
                job = pool.schedule(_verify, args=(response, reference), timeout=self._timeout)
                right: bool | None = await asyncio.wrap_future(job)
                return right
        except (ProcessExpired, RuntimeError) as error:  # a broken pool's is a RuntimeError
            if isinstance(error, RecursionError):
                raise
            pool = self._replace(pool)
            raise _WorkerDiedError from error
        except TimeoutError:
            if job.done() and not job.cancelled():  # its own
                raise
            pool = self._replace(pool)
            raise _WorkerDiedError from None
        finally:
            free.put_nowait(pool)

    def _replace(self, pool: ProcessPool) -> ProcessPool:
        log.warning("a verifying process died or hangs; it is replaced")
        self._pools.discard(pool)
        pool.stop()
        ending = asyncio.create_task(asyncio.to_thread(pool.join))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return self._make()

    async def close(self) -> None:
        """End the processes."""
        self._free = None
        for pool in self._pools:
            pool.stop()
        joins = [asyncio.to_thread(pool.join) for pool in self._pools]
        await asyncio.gather(*joins, *self._ending, return_exceptions=True)
        self._pools = set()


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
