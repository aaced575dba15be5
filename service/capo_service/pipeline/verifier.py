"""Outcome r_v: is the rollout's final answer right? By the rules of docs/outcome.md.

Answers are compared in worker processes with a time and memory limit: an expression made to hang a
computer-algebra system costs one worker, which is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import resource
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

from pebble import ProcessExpired, ProcessPool

import capo_wire as wire
from capo_service.core.errors import InputError
from capo_wire.answers import compare

log = logging.getLogger(__name__)

_MEMORY_BYTES = 4 << 30
_ATTEMPTS = 3  # of one answer, if the worker dies
_START_SECONDS = 30.0  # for a worker to start
_MOST_WORKERS = 8  # by default; each takes about 85 MB


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome, 0 or 1; if the answer could not be checked, why (a name and a sentence)."""

    value: float
    reason: wire.Unchecked | None = None
    detail: str | None = None


class _WorkerDiedError(Exception):
    """The worker died during a comparison, or stopped responding."""


class Verifier:
    """Processes that compare answers. Call `start` once, `close` at the end.

    Each is a pool of one: a process that is killed while it holds the lock of its pool's pipe
    leaves the pool broken or hanging. Such a pool is replaced.
    """

    def __init__(self, workers: int | None = None, timeout: float = 3.0) -> None:
        """`workers`: processes; by default one for each CPU of this process, 2 to 8."""
        self._timeout = timeout
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.workers = workers or max(2, min(_MOST_WORKERS, cpus or 2))
        self._free: asyncio.Queue[ProcessPool] | None = None
        self._pools: set[ProcessPool] = set()
        self._ending: set[asyncio.Task[None]] = set()  # of pools that were replaced

    async def start(self) -> None:
        """Start all processes and load math-verify in them, before any request needs them.

        Raises:
            RuntimeError: a test comparison failed.
        """
        pools = [self._make() for _ in range(self.workers)]
        self._free = asyncio.Queue()
        for pool in pools:
            self._free.put_nowait(pool)
        # Each call takes the pool that has been idle longest, so every pool gets one.
        for verified in await asyncio.gather(*(self.verify("1", "1") for _ in pools)):
            if verified.reason is not None:
                raise RuntimeError(f"answers cannot be verified: {verified.detail}")

    def _make(self) -> ProcessPool:
        pool = ProcessPool(
            max_workers=1,
            context=multiprocessing.get_context("spawn"),
            initializer=_prepare_worker,
        )
        self._pools.add(pool)
        return pool

    async def verify(self, response: str, reference: str, earlier: Sequence[str] = ()) -> Verified:
        """Compare the final answer of a response with that of `reference` (docs/outcome.md).

        Args:
            response: what the policy wrote; of a trajectory, its last turn.
            reference: an answer, or a solution that marks its answer.
            earlier: the turns before, in order; the last one with an answer counts.

        Raises:
            InputError: the reference contains no answer that can be parsed.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                verdict = await self._compare([*earlier, response], reference)
                break
            except FutureTimeoutError:
                limit = f"verification took over {self._timeout:g} s (verify_timeout)"
                return Verified(0.0, "timeout", limit)
            except (MemoryError, RecursionError):
                return Verified(0.0, "memory", "verification exceeded its memory limit")
            except _WorkerDiedError:  # which need not be this answer's fault
                if attempt == _ATTEMPTS:
                    died = f"the verification process died {_ATTEMPTS} times"
                    return Verified(0.0, "worker_died", died)
        if verdict is None:
            raise InputError(
                "reference contains no answer that can be parsed; send outcome, or a reference "
                "that is the answer (`12\\pi`), ends in `#### 42`, or contains \\boxed{42}",
                field="reference",
                problem="unreadable-reference",
            )
        return Verified(float(verdict.right), verdict.reason, verdict.detail)

    async def _compare(self, turns: list[str], reference: str) -> compare.Comparison | None:
        """As `_verify`, in the first worker that is free.

        Raises:
            _WorkerDiedError: it died, or stopped responding.
        """
        free = self._free
        if free is None:
            raise RuntimeError("call start() first")
        pool = await free.get()
        try:
            # The pool ends a slow comparison; this timeout is for a worker that does not respond.
            async with asyncio.timeout(self._timeout + _START_SECONDS):
                job = pool.schedule(_verify, args=(turns, reference), timeout=self._timeout)
                verdict: compare.Comparison | None = await asyncio.wrap_future(job)
                return verdict
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
        log.warning("an answer-verification worker died or hung: restarting it")
        self._pools.discard(pool)
        pool.stop()
        ending = asyncio.create_task(asyncio.to_thread(pool.join))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return self._make()

    async def close(self) -> None:
        """End the workers."""
        self._free = None
        for pool in self._pools:
            pool.stop()
        joins = [asyncio.to_thread(pool.join) for pool in self._pools]
        await asyncio.gather(*joins, *self._ending, return_exceptions=True)
        self._pools = set()


def _prepare_worker() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    logging.disable(logging.WARNING)  # math-verify warns that its own time limit is off
    compare.equivalent("x + 1", "1 + x")  # loads math-verify before the first time limit runs


def _verify(turns: list[str], reference: str) -> compare.Comparison | None:
    """Whether the answers agree; None if the reference contains none. Runs in a worker."""
    try:
        for turn in reversed(turns[1:]):
            found = compare.verify(turn, reference)
            if found.reason != "no_answer":
                return found
        return compare.verify(turns[0], reference)
    except compare.UnreadableReferenceError:
        return None
