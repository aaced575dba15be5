"""The pipeline of one rollout: steps, alignment, prompt, critiques, vote, rewards."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from capo_client import wire
from capo_service.core import alignment, rewards, steps, verdict, voting
from capo_service.core.alignment import Alignment
from capo_service.core.errors import InputError
from capo_service.core.prompt import PromptTemplate, nonce
from capo_service.core.verdict import OutputFormat, Style, Verdict
from capo_service.core.vocabulary import TokenTable
from capo_service.engine.base import (
    FINISHED_EARLY,
    Completion,
    EncodedPrompt,
    Engine,
    EngineError,
    Prompt,
    Sampling,
)

_LEAST_FREE_TEXT = 64  # tokens that a critique in free text must at least have room for
_ABORT_GRACE = 2.0  # seconds until a critique that was ended early is cancelled outright


class NoValidCritiqueError(Exception):
    """No critique of a rollout could be read, so nothing is known about its steps."""


class Verified(Protocol):
    """What a verifier answers."""

    @property
    def value(self) -> float: ...
    @property
    def detail(self) -> str | None: ...


class Verifier(Protocol):
    """Compares a response's final answer with the reference's."""

    async def verify(self, response: str, reference: str) -> Verified: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decides about critiques, and the limits on one rollout."""

    style: Style = "brief"
    format: str = "json"
    max_characters: int = 200_000
    max_response_tokens: int = 65_536
    max_steps: int = 400
    max_critiques: int = 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rollout with everything done that needs no judge."""

    response: str
    spans: list[steps.Span]
    token_spans: list[steps.Span] | None
    prompt: EncodedPrompt
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Ballot:
    """One critique and what was read in it."""

    completion: Completion
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """A credited rollout, with everything that any caller may ask to be sent back."""

    result: wire.Credited
    engine_seconds: float


class Creditor:
    """Credits rollouts with one judge.

    `tables` are the vocabularies that rollouts may name; `secret` keys the nonce of step tags.
    """

    def __init__(
        self,
        engine: Engine,
        verifier: Verifier,
        template: PromptTemplate,
        tables: Mapping[str, TokenTable],
        secret: bytes,
        policy: Policy,
    ) -> None:
        self._engine = engine
        self._verifier = verifier
        self._template = template
        self._tables = tables
        self._secret = secret
        self._policy = policy
        self._numbers = itertools.count()

    def prepare(self, rollout: wire.Rollout, options: wire.CreditOptions) -> Prepared:
        """Everything before the judge. CPU work only, linear in the rollout; safe in any thread.

        Raises:
            InputError: the rollout cannot be credited as sent.
        """
        policy = self._policy
        question = rollout.question
        if question is None:
            question = _conversation(rollout.messages or [])
        for name, text in (
            ("question", question),
            ("response", rollout.response),
            ("reference", rollout.reference),
        ):
            _limit(name, "characters", len(text or ""), "max_characters", policy.max_characters)
        if options.voting.critiques > policy.max_critiques:
            raise InputError(
                f"voting.n = {options.voting.critiques} is over this service's limit of "
                f"{policy.max_critiques} critiques (max_critiques)",
                field="voting.n",
            )
        if (
            rollout.outcome is None
            and rollout.reference is None
            and options.reward.scheme != "process_only"
        ):
            raise InputError(
                f"reward scheme {options.reward.scheme} needs an outcome: send outcome, or a "
                "reference to verify the answer by, or use scheme process_only",
                field="outcome",
                problem="no-outcome",
            )
        aligned = self._align(rollout)
        response = aligned.text if aligned else rollout.response or ""
        spans = _split(response, rollout.steps, options.segment)
        _limit("response", "steps", len(spans), "max_steps", policy.max_steps)
        prompt = self._template.render(
            question=question,
            steps=[response[start:end] for start, end in spans],
            reference=rollout.reference if options.show_reference else None,
            nonce=nonce(self._secret, question),
            style=policy.style,
            format=policy.format,
        )
        encoded = self._engine.encode(Prompt(prompt.system, prompt.user))
        return Prepared(
            response=response,
            spans=spans,
            token_spans=alignment.token_spans(aligned, spans) if aligned else None,
            prompt=encoded,
            sampling=self._sampling(options.voting, len(spans), encoded),
        )

    def _align(self, rollout: wire.Rollout) -> Alignment | None:
        ids, offsets = rollout.response_token_ids, rollout.token_offsets
        count = len(ids if ids is not None else offsets or ())
        _limit(
            "response",
            "tokens",
            count,
            "max_response_tokens",
            self._policy.max_response_tokens,
        )
        if offsets is not None:
            return alignment.from_offsets(offsets, rollout.response or "")
        if ids is None:
            return None
        table = self._tables.get(rollout.tokenizer or "")
        if table is None:
            raise InputError(
                f"tokenizer {rollout.tokenizer!r} is not served; this service has "
                f"{', '.join(sorted(self._tables)) or 'none'} (setting tokenizers adds more), or "
                "send token_offsets",
                field="tokenizer",
                problem="unknown-tokenizer",
            )
        return alignment.align(table, ids, rollout.response)

    def _sampling(self, asked: wire.Voting, n_steps: int, prompt: EncodedPrompt) -> Sampling:
        """How critiques are sampled, within the judge's context."""
        constrained = self._policy.format == "json"
        shape = OutputFormat.fitting(n_steps, self._policy.style, asked.max_tokens)
        if constrained and shape is None:
            needed = OutputFormat(n_steps, 0).max_tokens()
            raise InputError(
                f"a verdict on {n_steps} steps may take {needed} tokens, but voting.max_tokens is "
                f"{asked.max_tokens}; raise it, or use a segmenter with fewer steps",
                field="voting.max_tokens",
            )
        max_tokens = shape.max_tokens() if constrained and shape else asked.max_tokens
        context = self._engine.context_length
        if context is not None and prompt.tokens is not None:
            needed = max_tokens if constrained else min(max_tokens, _LEAST_FREE_TEXT)
            if prompt.tokens + needed > context:
                raise InputError(
                    f"the judge's prompt has {prompt.tokens} tokens and its critique may take "
                    f"{needed}, but the judge's context holds {context}; shorten the rollout or "
                    "use a judge with a longer context",
                    field="response",
                    problem="context-exceeded",
                )
            max_tokens = min(max_tokens, context - prompt.tokens)
        return Sampling(
            temperature=0.0 if asked.method == "greedy" else asked.temperature,
            top_p=1.0 if asked.method == "greedy" else asked.top_p,
            max_tokens=max_tokens,
            seed=asked.seed,
            grammar=shape.grammar() if constrained and shape else None,
            json_schema=shape.json_schema() if constrained and shape else None,
        )

    async def judge(
        self, prepared: Prepared, rollout: wire.Rollout, options: wire.CreditOptions
    ) -> Judged:
        """Critiques, vote and rewards of a prepared rollout, and its outcome.

        Raises:
            InputError: the reference holds no answer.
            NoValidCritiqueError: no critique could be read.
            EngineDeadError, EngineBusyError: as the engine raises them.
        """
        outcome_task = asyncio.create_task(self._outcome(prepared, rollout, options))
        ballots_task = asyncio.create_task(self._ballots(prepared, options.voting))
        started = time.monotonic()
        try:
            outcome, ballots = await asyncio.gather(outcome_task, ballots_task)
        finally:
            await _cancel([outcome_task, ballots_task])
        return Judged(_credit(prepared, options, outcome, ballots), time.monotonic() - started)

    async def _outcome(
        self, prepared: Prepared, rollout: wire.Rollout, options: wire.CreditOptions
    ) -> wire.Outcome | None:
        if rollout.outcome is not None:
            return wire.Outcome(value=rollout.outcome, source="caller")
        if rollout.reference is None or options.reward.scheme == "process_only":
            return None
        verified = await self._verifier.verify(prepared.response, rollout.reference)
        return wire.Outcome(value=verified.value, source="math_verify", detail=verified.detail)

    async def _ballots(self, prepared: Prepared, asked: wire.Voting) -> list[Ballot]:
        """Sample critiques, all at once, and end those that the vote no longer needs."""
        names = [f"critique-{next(self._numbers)}" for _ in range(asked.critiques)]
        tasks = [
            asyncio.create_task(self._ballot(name, position, prepared))
            for position, name in enumerate(names)
        ]
        pending = set(tasks)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # an engine that died is not waited for any longer
                cast = [task.result().verdict.wrong for task in tasks if task.done()]
                counts, valid = voting.count_votes(cast, len(prepared.spans))
                if (
                    pending
                    and asked.early_stop
                    and voting.decided(asked.method, counts, valid, len(pending))
                ):
                    await self._end_early(
                        [name for name, task in zip(names, tasks, strict=True) if task in pending],
                        pending,
                    )
                    break
            return [task.result() for task in tasks if not task.cancelled()]
        finally:
            await _cancel(tasks)

    async def _ballot(self, name: str, position: int, prepared: Prepared) -> Ballot:
        sampling = prepared.sampling
        if sampling.seed is not None:
            sampling = _with_seed(sampling, position)
        try:
            completion = await self._engine.complete(name, prepared.prompt, sampling)
        except EngineError as error:
            return Ballot(Completion("", "error"), Verdict(None, str(error)))
        if completion.finish_reason == FINISHED_EARLY:
            return Ballot(completion, Verdict(None, "ended early: the vote was decided"))
        truncated = completion.finish_reason != "stop"
        return Ballot(
            completion, verdict.read(completion.text, len(prepared.spans), truncated=truncated)
        )

    async def _end_early(self, names: list[str], tasks: set[asyncio.Task[Ballot]]) -> None:
        await asyncio.gather(*map(self._engine.abort, names))
        _, late = await asyncio.wait(tasks, timeout=_ABORT_GRACE)
        await _cancel(late)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _credit(
    prepared: Prepared,
    options: wire.CreditOptions,
    outcome: wire.Outcome | None,
    ballots: Sequence[Ballot],
) -> wire.Credited:
    """Vote and reward. Raises NoValidCritiqueError."""
    method, reward = options.voting.method, options.reward
    n_steps = len(prepared.spans)
    counts, valid = voting.count_votes([ballot.verdict.wrong for ballot in ballots], n_steps)
    if not valid:
        reasons = "; ".join(sorted({str(ballot.verdict.reason) for ballot in ballots}))
        raise NoValidCritiqueError(
            f"none of {options.voting.critiques} critiques could be read: {reasons[:500]}"
        )
    penalties = voting.penalties(method, counts, valid)
    earned = rewards.step_rewards(
        reward.scheme,
        penalties,
        outcome.value if outcome else None,
        reward.w_whole,
        reward.w_process,
    )
    spans = prepared.token_spans
    finished = [b for b in ballots if b.completion.finish_reason != FINISHED_EARLY]
    return wire.Credited(
        id="",
        outcome=outcome,
        steps=[
            wire.Step(
                index=i,
                span=span,
                token_span=spans[i] if spans is not None else None,
                wrong=penalties[i] >= 0.5,
                penalty=penalties[i],
                votes=wire.Votes(wrong=counts[i], valid=valid, asked=options.voting.critiques),
                reward=earned[i],
            )
            for i, span in enumerate(prepared.spans)
        ],
        token_rewards=rewards.token_rewards(earned, spans) if spans is not None else None,
        critiques=[_critique(ballot) for ballot in finished],
        response=prepared.response,
        usage=wire.Usage(
            prompt_tokens=sum(b.completion.prompt_tokens for b in ballots),
            cached_tokens=sum(b.completion.cached_tokens for b in ballots),
            completion_tokens=sum(b.completion.completion_tokens for b in ballots),
            critiques_run=len(finished),
        ),
    )


def _critique(ballot: Ballot) -> wire.Critique:
    wrong = ballot.verdict.wrong
    return wire.Critique(
        text=ballot.completion.text,
        wrong_steps=None if wrong is None else sorted(wrong),
        valid=wrong is not None,
        finish_reason=ballot.completion.finish_reason,
        reason=ballot.verdict.reason,
    )


def _with_seed(sampling: Sampling, position: int) -> Sampling:
    """Each critique's own seed: k critiques with one seed would be k copies."""
    assert sampling.seed is not None  # noqa: S101
    return replace(sampling, seed=(sampling.seed * 0x9E3779B1 + position) & 0x7FFFFFFF)


def _conversation(messages: Sequence[wire.ChatTurn]) -> str:
    """Chat turns as one text: a lone user turn as it is, others with their roles."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].text()
    return "\n\n".join(f"{turn.role}: {turn.text()}" for turn in messages)


def _split(
    response: str, given: Sequence[steps.Span] | None, segment: wire.Segment
) -> list[steps.Span]:
    if not response.strip():
        raise InputError("response is empty or blank: there is no step to judge", field="response")
    if given is not None:
        spans = steps.given(response, given)
    elif segment.method == "given":
        raise InputError("segment method given needs the rollout's steps", field="steps")
    elif segment.method == "regex":
        spans = steps.by_pattern(response, segment.pattern or "", segment.cut)
    else:
        spans = _SEGMENTERS[segment.method](response)
    return spans


_SEGMENTERS = {
    "blank_line": steps.blank_line,
    "newline": steps.newline,
    "sentence": steps.sentence,
}


def _limit(name: str, unit: str, count: int, setting: str, most: int) -> None:
    if count > most:
        raise InputError(
            f"{name} has {count} {unit}; this service takes {most} (setting {setting})",
            field=name,
            problem="too-large",
        )
