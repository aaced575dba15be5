"""The k critiques of a rollout, and no more of them than the vote needs."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import capo_wire as wire
from capo_service.concurrency.tasks import cancel
from capo_service.observability.tracing import tracer
from capo_service.pipeline.critics import Ballot, Critic
from capo_service.pipeline.prepare import Prepared

_ABORT_SECONDS = 2.0  # until a critique that was ended early is cancelled outright


@dataclass(frozen=True, slots=True)
class _Started:
    """A critique that was started."""

    name: str
    task: asyncio.Task[Ballot]


class CritiqueSampler:
    """Samples critiques from one critic.

    Attributes:
        sampling: critiques that the critic works on now, of all rollouts together.
    """

    def __init__(self, critic: Critic) -> None:
        self._critic = critic
        self._numbers = itertools.count()
        self.sampling = 0

    @property
    def is_full(self) -> bool:
        """Whether another critique would wait inside the engine."""
        return self.sampling >= self._critic.slots

    async def sample(self, prepared: Prepared, voting: wire.Voting) -> list[Ballot]:
        """Sample critiques; end or skip those that can no longer change the vote.

        While the critic has free slots, all start at once. While it has none, they start in waves,
        so that critiques that the vote will not need are never started.

        Returns:
            The critiques that were started, in their order; those that were ended early too, unless
            they had to be cancelled.

        Raises:
            EngineDeadError, EngineBusyError: as the engine raises them.
        """
        requests: list[_Started] = []
        with tracer.start_as_current_span("engine", attributes={"critiques": voting.critiques}):
            try:
                while wave := self._next_wave(prepared, voting, requests):
                    while sum(not request.task.done() for request in requests) < wave:
                        requests.append(self._start(prepared, len(requests)))
                    pending = [request.task for request in requests if not request.task.done()]
                    done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()  # a dead engine ends the rollout at once
                await self._end_early([each for each in requests if not each.task.done()])
                return [each.task.result() for each in requests if not each.task.cancelled()]
            finally:
                await cancel(request.task for request in requests)

    def _next_wave(self, prepared: Prepared, voting: wire.Voting, requests: list[_Started]) -> int:
        """How many critiques should be running now; 0 where the vote is decided."""
        cast = [each.task.result().verdict.wrong for each in requests if each.task.done()]
        remaining = voting.critiques - len(cast)
        if not voting.early_stop:
            return remaining
        votes = prepared.count_votes(cast)
        if votes.decided(voting.method, remaining):
            return 0
        return votes.next_wave(voting.method, remaining) if self.is_full else remaining

    def _start(self, prepared: Prepared, position: int) -> _Started:
        name = f"critique-{next(self._numbers)}"
        task = asyncio.create_task(self._critic.critique(name, prepared, position))
        self.sampling += 1
        task.add_done_callback(self._ended)
        return _Started(name, task)

    def _ended(self, _: asyncio.Task[Ballot]) -> None:
        self.sampling -= 1

    async def _end_early(self, running: list[_Started]) -> None:
        if running:
            await asyncio.gather(*(self._critic.abort(request.name) for request in running))
            _, late = await asyncio.wait([each.task for each in running], timeout=_ABORT_SECONDS)
            await cancel(late)
