"""The rollouts of one request: admitted together, judged concurrently, returned as they finish."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import capo_wire as wire
from capo_service.concurrency.tasks import cancel
from capo_service.core.verdicts.criteria import EXPECTED_TOKENS as CRITERION_TOKENS
from capo_service.observability.live import LiveView
from capo_service.observability.logs import rollouts as rollout_log
from capo_service.observability.metrics import Telemetry
from capo_service.pipeline.assemble import with_token_rewards
from capo_service.pipeline.deduplication import DeduplicatedJudge
from capo_service.pipeline.errors import BatchTooLargeError
from capo_service.pipeline.types import BatchAnswer, Judged, RolloutBatch
from capo_service.scheduling.admission import Admission, DrainingError, Ticket
from capo_service.scheduling.api_keys import ApiKey, KeyRing

_STARTED_AT_ONCE = 16  # rollouts of a request, between two turns of the event loop
_CHARACTERS_PER_TOKEN = 4  # roughly; a rollout is not tokenized before it is prepared
_EXPECTED_READS = {"majority": 2, "average": 6}  # requests that decide exact votes, typically
_STEPS_OF_WINDOW = 0.8  # share; the rest are steps before it, in short form

Explain = Callable[[Exception], wire.Problem]
CritiqueTokens = Callable[[wire.Voting], int]


class BatchCreditor:
    """Credits requests.

    Args:
        judge: judges a rollout.
        admission: the queue.
        keys: the quotas.
        live: keeps recent results for the live view.
        critique_tokens: the expected tokens of a critique.
        telemetry: metrics.
        explain: turns an error into the problem that the caller gets.
        window_tokens: the judge's context, where longer rollouts are judged in windows.
    """

    def __init__(
        self,
        judge: DeduplicatedJudge,
        admission: Admission,
        keys: KeyRing,
        live: LiveView,
        critique_tokens: CritiqueTokens,
        telemetry: Telemetry,
        explain: Explain,
        window_tokens: int | None = None,
    ) -> None:
        self._judge = judge
        self._admission = admission
        self._keys = keys
        self._live = live
        self._critique_tokens = critique_tokens
        self._telemetry = telemetry
        self._explain = explain
        self._window_tokens = window_tokens
        self._running: set[asyncio.Task[BatchAnswer]] = set()
        self._stopping = False

    async def credit(self, batch: RolloutBatch, key: ApiKey) -> AsyncGenerator[BatchAnswer, None]:
        """The results of a batch as they finish; on exit, unfinished rollouts are cancelled.

        Raises:
            BatchTooLargeError: it exceeds the queue's capacity.
            DrainingError, QueueFullError: the service accepts no work at the moment.
            QuotaError, QuotaTooSmallError: it exceeds the key's quota.
        """
        sizes = {
            position: estimated_tokens(
                item, batch.options, self._critique_tokens, self._window_tokens
            )
            for position, item in enumerate(batch.items)
            if isinstance(item, wire.Rollout)
        }
        ticket = Ticket(secrets.token_hex(8), key.name, batch.options.priority)
        deadline = asyncio.get_running_loop().time() + batch.options.deadline_ms / 1000
        tasks: list[asyncio.Task[BatchAnswer]] = []
        finished: asyncio.Queue[asyncio.Task[BatchAnswer]] = asyncio.Queue()
        with self._admitted(batch, key, ticket, sum(sizes.values())):
            try:
                for number, position in enumerate(_by_question(batch.items), 1):
                    size = sizes.get(position, 0)
                    task = asyncio.create_task(
                        self._credit_rollout(batch, position, ticket, size, deadline)
                    )
                    task.add_done_callback(finished.put_nowait)
                    self._running.add(task)
                    tasks.append(task)
                    if number % _STARTED_AT_ONCE == 0:
                        await asyncio.sleep(0)
                for _ in tasks:
                    yield (await finished.get()).result()
            finally:
                await cancel(tasks)
                self._running.difference_update(tasks)

    @contextmanager
    def _admitted(
        self, batch: RolloutBatch, key: ApiKey, ticket: Ticket, tokens: int
    ) -> Iterator[None]:
        """Hold quota and queue capacity for a batch."""
        if tokens > self._admission.max_accepted_tokens:
            raise BatchTooLargeError(
                f"the request has about {tokens} judge tokens; the queue of this service holds "
                f"at most {self._admission.max_accepted_tokens} (setting max_queued_tokens)"
            )
        count, seconds = len(batch.items), batch.options.deadline_ms / 1000

        def wait_for_rollouts(rollouts: int) -> int:
            return self._admission.expected_wait(tokens * rollouts / count)

        with (
            self._keys.quota(key).hold(key, count, wait_for_rollouts),
            self._admission.admit(count, tokens, ticket, seconds),
        ):
            yield

    async def _credit_rollout(
        self, batch: RolloutBatch, position: int, ticket: Ticket, tokens: int, deadline: float
    ) -> BatchAnswer:
        rollout, options, name = batch.items[position], batch.options, batch.ids[position]
        outcome: Judged | wire.Failed
        if isinstance(rollout, wire.Failed):
            outcome = rollout
        else:
            try:
                async with asyncio.timeout_at(deadline):
                    judged = await self._judge.judge(rollout, options, ticket, tokens)
                result = _for_request(judged, name)
                rollout_log.info("%s -> %s", rollout, result)
                if self._live.keeps:
                    full = with_token_rewards(result, rollout.token_count)
                    self._live.note(batch.request_id, rollout, options, full, ticket.key)
                outcome = replace(judged, result=_select(result, options.include, rollout))
            except asyncio.CancelledError:
                if not self._stopping:
                    raise
                outcome = wire.Failed(id=name, error=self._explain(DrainingError()))
            except Exception as error:
                outcome = wire.Failed(id=name, error=self._explain(error))
        answer = BatchAnswer(position, outcome)
        # Counted when it is done and not when it is sent: the caller may have left by then.
        self._telemetry.answered(answer.result, ticket.key)
        return answer

    def fail_unfinished(self) -> None:
        """Abort the running rollouts, with the error that the service is shutting down."""
        self._stopping = True
        for task in self._running:
            task.cancel()


def estimated_tokens(
    rollout: wire.Rollout,
    options: wire.CreditOptions,
    critique_tokens: CritiqueTokens,
    window_tokens: int | None = None,
) -> int:
    """The estimated number of judge tokens for a rollout, at least 1.

    In windows of `window_tokens`, question, reference and critiques count for each of them.
    """
    voting = options.voting
    criteria = rollout.criteria or ()
    critique = critique_tokens(voting) + CRITERION_TOKENS * len(criteria)
    response = len(rollout.trajectory()[0]) // _CHARACTERS_PER_TOKEN or rollout.token_count
    asked = sum(len(criterion.text) for criterion in criteria)
    shared = asked + len(rollout.prompt_text()) + len(rollout.reference or "")
    shared //= _CHARACTERS_PER_TOKEN
    windows = 1
    if window_tokens is not None and shared + response + critique > window_tokens:
        space = max(window_tokens - shared - critique, window_tokens // 8, 1)
        windows = max(math.ceil(response / (_STEPS_OF_WINDOW * space)), 1)
    critiques = voting.critiques
    if voting.exact:
        critiques = min(critiques, _EXPECTED_READS.get(voting.method, critiques))
    return 1 + response + windows * (shared + critique * critiques)


def _by_question(items: Sequence[wire.Rollout | wire.Failed]) -> list[int]:
    """Positions with those of one question adjacent, for the judge's prefix cache."""
    questions = [item.prompt_text() if isinstance(item, wire.Rollout) else "" for item in items]
    first: dict[str, int] = {}
    for position, question in enumerate(questions):
        first.setdefault(question, position)
    return sorted(range(len(items)), key=lambda position: first[questions[position]])


def _for_request(judged: Judged, name: str) -> wire.Credited:
    """The result under the rollout's own id; without usage if it was judged for another request."""
    changes: dict[str, Any] = {"id": name, "cached": judged.cached}
    if judged.cached:
        changes["usage"] = wire.Usage()
    return judged.result.model_copy(update=changes)


def _select(
    result: wire.Credited, include: Sequence[wire.Include], rollout: wire.Rollout
) -> wire.Credited:
    if "token_rewards" in include:
        result = with_token_rewards(result, rollout.token_count)
    left_out = {"token_rewards", "critiques", "response"} - set(include)
    if rollout.response_turns is not None:  # only we know the text in which spans are positions
        left_out.discard("response")
    changes: dict[str, Any] = dict.fromkeys(left_out)
    if "thinking" in include:
        changes.pop("critiques", None)  # a thought is part of its critique
    elif "critiques" in include:
        without = {"thinking": None}
        changes["critiques"] = [c.model_copy(update=without) for c in result.critiques or ()]
    return result.model_copy(update=changes)
