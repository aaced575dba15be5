"""The basis of all adapters: samples in, rewards out, and a fallback that is logged and counted.

A `Scorer` works on an event loop in another thread, so frameworks may call it from coroutines,
from threads and from forked processes. All samples of a call are sent concurrently; a framework
that calls it for each rollout gets the reward as soon as that rollout is judged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cache
from typing import Any, Literal, Unpack

import capo_wire as wire
from capo_client import errors
from capo_client._background_loop import BackgroundWork
from capo_client._options import CreditOptionArgs, make_options
from capo_client.adapters import rollout_file
from capo_client.adapters.queries import CreditQuery, QueryBuilder
from capo_client.adapters.samples import Sample, Scored, checked, constant, from_credit
from capo_client.async_client import AsyncCreditClient

__all__ = ["FALLBACKS", "Fallback", "Sample", "Scored", "Scorer", "default_scorer"]

Fallback = Literal["skip", "outcome", "raise"]
FALLBACKS: tuple[Fallback, ...] = ("skip", "outcome", "raise")

_log = logging.getLogger("capo_client.adapters")
# High, because the service schedules requests, and refuses what its queue cannot hold.
_CONCURRENCY = 512
_MAX_UNSENDABLE = 64  # consecutive rollouts from the start


class ScorerArgs(CreditOptionArgs, total=False):
    """The keyword arguments of `Scorer`, for adapters that pass them on."""

    tokenizer: Any
    tokenizer_name: str | None
    fallback: Fallback
    deadline: float
    ready_within: float
    api_key: str | None
    rollouts_file: str | None


class Scorer:
    """Scores rollouts by a running service.

    Args:
        url: the service, or several replicas of it. Default: CAPO_URL.
        tokenizer: the policy's Hugging Face tokenizer; needed for samples with ids.
        tokenizer_name: its name at the service (`GET /info`), which then decodes the ids. If the
            service does not serve it, offsets are computed here, as without a name.
        fallback: for each rollout that is not credited in the end, or cannot be sent (no
            reference, a mask of another length). `skip`: no reward; the framework leaves it out.
            `outcome`: w_whole times the outcome on every token, if the outcome was given; else as
            `skip`. `raise`: a `CreditFailedError`.
        deadline: seconds for each call, including retries.
        ready_within: seconds to wait at the start for the judge to be loaded.
        api_key: default: CAPO_API_KEY.
        rollouts_file: append every rollout with its critiques to this file of JSON lines, which the
            inspector opens. Default: CAPO_ROLLOUTS_FILE; without it, none is written.
        options: `voting`, `reward`, `segment`, `show_reference`, `priority`, `run`: the fields of
            `capo_wire.CreditOptions`.

    Raises:
        UnknownOptionError: an option is unknown.
        InvalidRequestError: an option has a wrong value.
        UnavailableError: there is no service at the URL.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        tokenizer: Any = None,
        tokenizer_name: str | None = None,
        fallback: Fallback = "skip",
        deadline: float = 600.0,
        ready_within: float = 600.0,
        api_key: str | None = None,
        rollouts_file: str | None = None,
        **options: Unpack[CreditOptionArgs],
    ) -> None:
        if fallback not in FALLBACKS:
            raise ValueError(f"fallback is {fallback!r}; choose from {', '.join(FALLBACKS)}")
        checked_options = make_options(options, ScorerArgs.__annotations__)
        self.tokenizer = tokenizer
        self.fallback: Fallback = fallback
        self.deadline = deadline
        self.counts: Counter[str] = Counter()
        self.reward = wire.Reward.model_validate(checked_options.get("reward", {}))
        path = rollouts_file or os.environ.get("CAPO_ROLLOUTS_FILE")
        self._file = rollout_file.RolloutFile(path, options) if path else None
        self._options = rollout_file.with_texts(options) if path else options
        self._tokenizer_name = tokenizer_name
        self._logged: set[str] = set()
        self._unsendable: int | None = 0  # consecutive, from the start; None after one was sent
        self._client = AsyncCreditClient(url, api_key=api_key, concurrency=_CONCURRENCY)
        self._work = BackgroundWork()
        try:
            self._work.run(self._connect(ready_within))
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The service."""
        return self._client.url

    @property
    def by_name(self) -> bool:
        """Whether the service decodes ids, by `tokenizer_name`."""
        return self._tokenizer_name is not None

    async def _connect(self, ready_within: float) -> None:
        try:
            info = await self._client.info()
            await self._client.wait_until_ready(ready_within)
        except errors.UnavailableError as error:
            raise errors.UnavailableError(
                f"no reward service at {self.url} ({error}): start one with `capo serve`, or set "
                "url or CAPO_URL",
                error.problem,
            ) from error
        name = self._tokenizer_name
        if name is not None and name not in info.tokenizers:
            _log.warning(
                "the service at %s does not serve tokenizer %r (it has %s): offsets are computed "
                "here instead",
                self.url,
                name,
                ", ".join(info.tokenizers) or "none",
            )
            self._tokenizer_name = None

    async def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """Score rollouts, from any event loop; results are in the order of `samples`.

        Raises:
            ValueError: a sample has ids, and there is no tokenizer; none of the first 64 samples
                could be sent; or one could not, and `fallback` is `raise`.
            ProblemResponseError: the service refuses the request itself, as for a wrong key.
            CreditFailedError: a rollout was not credited, and `fallback` is `raise`.
        """
        return await asyncio.wrap_future(self._work.start(self._score(samples)))

    def score_now(self, samples: Sequence[Sample]) -> list[Scored]:
        """As `score`, for synchronous code."""
        return self._work.run(self._score(samples))

    def query_builder(self) -> QueryBuilder:
        """Converts samples into rollouts of the wire, by the tokenizer and the reward scheme."""
        needs_outcome = self.reward.scheme != "process_only"
        return QueryBuilder(self.tokenizer, self._tokenizer_name, needs_outcome)

    async def _score(self, samples: Sequence[Sample]) -> list[Scored]:
        builder = self.query_builder()
        queries = [builder.build(position, sample) for position, sample in enumerate(samples)]
        results = await self._credit(queries)
        if self._file is not None:
            self._file.write(queries, results)
        self._raise_if_none_can_be_sent(queries)
        scored = [
            self._scored(sample, query, results.get(position))
            for position, (sample, query) in enumerate(zip(samples, queries, strict=True))
        ]
        self.counts.update(each.source for each in scored)
        if self.fallback == "raise":
            _raise_first(results)
        return scored

    async def _credit(self, queries: Sequence[CreditQuery]) -> dict[int, wire.Result | Exception]:
        """Results and errors by position; none for a query without text."""
        results: dict[int, wire.Result | Exception] = {
            position: query.error
            for position, query in enumerate(queries)
            if query.error is not None
        }
        bodies = {
            position: query.body for position, query in enumerate(queries) if query.body is not None
        }
        if not bodies:
            return results
        try:
            batch = await self._client.credit(
                list(bodies.values()), deadline=self.deadline, **self._options
            )
        except (errors.UnavailableError, errors.DeadlineExceededError) as error:
            return results | dict.fromkeys(bodies, error)
        return results | {
            position: checked(result, queries[position].flags)
            for position, result in zip(bodies, batch, strict=True)
        }

    def _raise_if_none_can_be_sent(self, queries: Sequence[CreditQuery]) -> None:
        """Fail rows that cannot be sent; if all fail from the start, the settings are wrong.

        Raises:
            ValueError: the last row's error.
        """
        if self._unsendable is None:
            return
        unsendable = [query.error for query in queries if query.error is not None]
        if len(unsendable) < len(queries):
            self._unsendable = None
            return
        self._unsendable += len(unsendable)
        if self._unsendable >= _MAX_UNSENDABLE:
            raise ValueError(
                f"none of the first {self._unsendable} rollouts could be sent: {unsendable[-1]}"
            )

    def _scored(
        self, sample: Sample, query: CreditQuery, result: wire.Result | Exception | None
    ) -> Scored:
        flags, outcome = query.flags, query.outcome
        if isinstance(result, wire.Credited):
            return from_credit(result, flags)
        if result is None:  # a blank response: no step is wrong, and the answer is not right
            outcome = outcome or 0.0
            return constant(self.outcome_reward(outcome), flags, outcome, "judge", None)
        error = str(result) if isinstance(result, Exception) else _reason(result)
        if error not in self._logged:
            self._logged.add(error)
            _log.warning("a rollout was not credited (fallback: %s): %s", self.fallback, error)
        has_unknown_ids = sample.ids is not None and flags is None
        if self.fallback == "outcome" and outcome is not None and not has_unknown_ids:
            return constant(self.outcome_reward(outcome), flags, outcome, "outcome", error)
        return Scored(None, None, outcome, source="none", error=error)

    def outcome_reward(self, outcome: float) -> float:
        """The outcome's part of every token's reward: w_whole * r_v in eq. 1."""
        return 0.0 if self.reward.scheme == "process_only" else self.reward.w_whole * outcome

    def close(self) -> None:
        """Close the connection. May be called more than once."""
        self._work.stop(self._client.aclose)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_work"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._client = copy(self._client)  # copy.copy() passes the original's
        self._work = BackgroundWork()


def default_scorer() -> Scorer:
    """The process's scorer, for frameworks that are given a function's name and no arguments.

    Its arguments are the JSON object in CAPO_OPTIONS, such as
    `{"voting": {"n": 8}, "fallback": "outcome"}`.
    """
    return _scorer_of(os.getpid())  # a scorer from before a fork has no thread in the child


@cache
def _scorer_of(_: int) -> Scorer:
    text = os.environ.get("CAPO_OPTIONS") or "{}"
    try:
        options = json.loads(text)
        if not isinstance(options, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ValueError(f"CAPO_OPTIONS must hold a JSON object, not {text!r}: {error}") from None
    return Scorer(**options)


def _raise_first(results: Mapping[int, wire.Result | Exception]) -> None:
    failed = [result for result in results.values() if isinstance(result, wire.Failed)]
    if failed:
        raise errors.CreditFailedError(failed)
    for result in results.values():
        if isinstance(result, Exception):
            raise result


def _reason(failed: wire.Failed) -> str:
    problem = failed.error
    return f"{problem.status} {problem.title}: {problem.detail}"
