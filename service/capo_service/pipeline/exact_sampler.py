"""Exact votes of an LLM judge: reads its likeliest verdicts until the vote is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import capo_wire as wire
from capo_service.concurrency.tasks import cancel
from capo_service.core.exact_votes import TokenChance, Unread, VerdictTree
from capo_service.core.verdicts.base import Verdict
from capo_service.core.verdicts.step_list import StepList
from capo_service.core.vocabulary import TokenTable
from capo_service.engine.base import (
    Completion,
    CritiqueFailedError,
    CritiqueSampling,
    Engine,
    TokenPrompt,
)
from capo_service.pipeline.critics import Ballot
from capo_service.pipeline.judge_prompt import JudgeTask
from capo_service.pipeline.prepared import Prepared

Running = Callable[[], AbstractContextManager[str]]


class ExactSampler:
    """Computes exact votes with an engine that returns log probabilities.

    Args:
        engine: runs the judge.
        table: the judge's vocabulary.
    """

    def __init__(self, engine: Engine, table: TokenTable) -> None:
        self._engine = engine
        self._pieces = table.pieces

    async def sample(
        self, prepared: Prepared, voting: wire.Voting, running: Running
    ) -> list[Ballot]:
        """The requests that were made for a window, each with the votes of all of them.

        Args:
            prepared: the window.
            voting: the request's options; `voting.critiques` is the maximum number of requests.
            running: counts a request while it runs, and names it.

        Raises:
            EngineDeadError, EngineBusyError: as the engine raises them.
        """
        task = prepared.task
        if task is None or not isinstance(task.sampling.constraint, StepList):
            raise ValueError("the rollout was not prepared for exact votes")
        false, checker = prepared.false_equations, prepared.symbolic_votes
        tree = VerdictTree(
            task.sampling.constraint.start(),
            self._text,
            TokenChance(task.sampling.temperature, task.sampling.top_p),
            voting.method,
            voting.early_stop,
            false if checker else (),
            checker / (wire.DEFAULT_CRITIQUES + checker),
        )
        ballots: list[Ballot] = []
        while reads := tree.next_reads(voting.critiques - len(ballots)):
            tasks = [asyncio.create_task(self._read(tree, task, each, running)) for each in reads]
            try:
                ballots += await asyncio.gather(*tasks)
            finally:
                await cancel(tasks)
        votes = tree.votes()
        return [replace(ballot, exact=votes) for ballot in ballots]

    async def _read(
        self, tree: VerdictTree, task: JudgeTask, read: Unread, running: Running
    ) -> Ballot:
        prompt, ids = task.prompt, read.ids or ()
        if not isinstance(prompt, TokenPrompt):
            raise ValueError("exact votes need a prompt of token ids")
        try:
            with running() as request:
                completion = await self._engine.complete(
                    request,
                    TokenPrompt([*prompt.ids, *ids], prompt.opening, group=prompt.group),
                    _greedy(task.sampling, read),
                )
        except CritiqueFailedError as error:
            tree.give_up(read)
            return Ballot(error.completion or Completion("", "error"), Verdict(None, str(error)))
        wrong = tree.add(read, completion.token_ids, completion.logprobs)
        return Ballot(completion, Verdict(wrong, None if wrong is not None else "cut off"))

    def _text(self, token: int) -> str:
        piece = self._pieces[token] if token < len(self._pieces) else None
        return piece if isinstance(piece, str) else "\ufffd"  # in no list


def _greedy(sampling: CritiqueSampling, read: Unread) -> CritiqueSampling:
    """How the likeliest verdict of `read` is sampled."""
    first = replace(sampling, temperature=0.0, top_p=1.0, seed=None)
    if not read.ids:
        return first
    rest = read.start.rest
    most = min(rest.max_tokens("structural_tag"), sampling.max_tokens - len(read.ids))
    return replace(first, constraint=rest, max_tokens=max(most, 1))
