"""The k critiques of a rollout, and no more of them than the vote needs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import capo_wire as wire
from capo_service.concurrency.tasks import cancel
from capo_service.observability.tracing import tracer
from capo_service.pipeline.critics import Ballot, Critic
from capo_service.pipeline.exact_sampler import ExactSampler
from capo_service.pipeline.prepared import Prepared
from capo_service.scheduling.thought_lengths import ThoughtLengths

_ABORT_SECONDS = 2.0  # until a critique that was ended early is cancelled outright
_WINDOWS_AT_ONCE = 4  # of a rollout, so that a long one leaves the judge to others as well


@dataclass(frozen=True, slots=True)
class _Running:
    """A critique that was started."""

    name: str
    task: asyncio.Task[Ballot]


class CritiqueSampler:
    """Samples critiques from one critic.

    Args:
        critic: the critic.
        thoughts: where the lengths of its thoughts are recorded, for admission.
        exact: computes exact votes; None where the critic has none.

    Attributes:
        sampling: critiques that the critic works on now, of all rollouts together.
    """

    def __init__(
        self,
        critic: Critic,
        thoughts: ThoughtLengths | None = None,
        exact: ExactSampler | None = None,
    ) -> None:
        self._critic = critic
        self._thoughts = thoughts or ThoughtLengths()
        self._exact = exact
        self._numbers = itertools.count()
        self.sampling = 0

    @property
    def is_full(self) -> bool:
        """Whether another critique would wait inside the engine."""
        return self.sampling >= self._critic.slots

    async def sample(self, prepared: Prepared, voting: wire.Voting) -> list[Ballot]:
        """Sample the critiques of a rollout: k of each of its windows, which vote on their own.

        Returns:
            The critiques that were started, in the order of the windows, and of their starts; those
            that were ended early too, unless they had to be cancelled.

        Raises:
            EngineDeadError, EngineBusyError: as the engine raises them.
        """
        turn = asyncio.Semaphore(_WINDOWS_AT_ONCE)

        async def of_window(number: int, window: Prepared) -> list[Ballot]:
            async with turn:
                ballots = await self._of_window(window, voting)
            return [replace(ballot, window=number) for ballot in ballots]

        tasks = [asyncio.create_task(of_window(*each)) for each in enumerate(prepared.windows)]
        with tracer.start_as_current_span("engine", attributes={"critiques": voting.critiques}):
            try:
                return list(itertools.chain.from_iterable(await asyncio.gather(*tasks)))
            finally:
                await cancel(tasks)

    async def _of_window(self, prepared: Prepared, voting: wire.Voting) -> list[Ballot]:
        if not voting.exact:
            return await self._sample_window(prepared, voting)
        if self._exact is None:
            raise ValueError("this critic has no exact votes")
        return await self._exact.sample(prepared, voting, self._running)

    @contextmanager
    def _running(self) -> Iterator[str]:
        """Count a request of exact votes while it runs; its name."""
        self.sampling += 1
        try:
            yield f"critique-{next(self._numbers)}"
        finally:
            self.sampling -= 1

    async def _sample_window(self, prepared: Prepared, voting: wire.Voting) -> list[Ballot]:
        """Sample critiques of one window; end or skip those that can no longer change its vote.

        While the critic has free slots, all start at once. While it has none, they start in waves,
        so that critiques that the vote will not need are never started.
        """
        started: list[_Running] = []
        try:
            while wanted := self._wanted(prepared, voting, started):
                while sum(not each.task.done() for each in started) < wanted:
                    started.append(self._start(prepared, len(started)))
                pending = [each.task for each in started if not each.task.done()]
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a dead engine ends the rollout at once
            await self._end_early([each for each in started if not each.task.done()])
            return [each.task.result() for each in started if not each.task.cancelled()]
        finally:
            await cancel(each.task for each in started)

    def _wanted(self, prepared: Prepared, voting: wire.Voting, started: list[_Running]) -> int:
        """How many critiques should be running now; 0 where the vote is decided."""
        cast = [each.task.result().verdict for each in started if each.task.done()]
        remaining = voting.critiques - len(cast)
        if not voting.early_stop:
            return remaining
        votes = prepared.count_votes(cast)
        if votes.decided(voting.method, remaining):
            return 0
        return votes.next_wave(voting.method, remaining) if self.is_full else remaining

    def _start(self, prepared: Prepared, position: int) -> _Running:
        name = f"critique-{next(self._numbers)}"
        task = asyncio.create_task(self._critic.critique(name, prepared, position))
        self.sampling += 1
        budget = prepared.task.sampling.thinking_tokens if prepared.task else 0
        task.add_done_callback(partial(self._ended, budget))
        return _Running(name, task)

    def _ended(self, budget: int, task: asyncio.Task[Ballot]) -> None:
        self.sampling -= 1
        if not budget or task.cancelled() or task.exception() is not None:
            return
        completion = task.result().completion
        # A thought that was ended early counts by what it took. Nothing is known of a critique that
        # failed, or that a server dropped without saying what it had sampled.
        if completion.completion_tokens:
            self._thoughts.record(budget, completion.thinking_tokens)

    async def _end_early(self, running: list[_Running]) -> None:
        if running:
            await asyncio.gather(*(self._critic.abort(each.name) for each in running))
            _, late = await asyncio.wait([each.task for each in running], timeout=_ABORT_SECONDS)
            await cancel(late)
