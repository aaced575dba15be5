"""What every adapter needs: rollouts in, rewards out, and a fall-back that is never silent.

A `Scorer` works on an event loop in another thread, so it serves frameworks that call from
coroutines, from threads or from neither, and from processes that they fork. All rollouts of a call
are sent at once, in requests of a few; frameworks that call it once a rollout get theirs as soon as
it is judged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import Any, Literal

import capo_wire as wire
from capo_client import errors
from capo_client._background_loop import BackgroundWork
from capo_client._request_state import Answer, make_options
from capo_client.adapters.samples import (
    Asked,
    Sample,
    Scored,
    checked,
    constant,
    from_credit,
    outcome_of,
)
from capo_client.adapters.turns import content_text, decode_turns, policy_flags
from capo_client.async_client import AsyncCreditClient
from capo_wire.labels import reference_of

__all__ = ["FALLBACKS", "Fallback", "Sample", "Scored", "Scorer", "default_scorer"]

Fallback = Literal["skip", "outcome", "raise"]
FALLBACKS: tuple[Fallback, ...] = ("skip", "outcome", "raise")

_log = logging.getLogger("capo_client.adapters")
# As many calls at once; the service decides what is judged when, and refuses what is too much.
_CONCURRENCY = 512
_MOST_UNUSABLE = 64  # rollouts from the start of which none can be sent
# What data of the wrong kind raises: a missing role, an id that is no number or out of range.
_UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)


class _NoTokenizerError(ValueError):
    """A mistake of the set-up, which no other rollout escapes."""


class Scorer:
    """Scores rollouts by a running service.

    Args:
        url: the service, or several of them; by default CAPO_URL.
        tokenizer: the policy's, of Hugging Face; needed for rollouts that come as ids.
        tokenizer_name: its name at the service (`GET /info`), which then decodes the ids. Where
            the service does not know it, offsets are computed here, as without a name.
        fallback: for rollouts that are not credited in the end, or cannot be sent (no reference,
            a mask of another length), each for itself. `skip`: no reward; the framework
            leaves them out. `outcome`: w_whole times the outcome on every token, where the outcome
            was given; else as `skip`. `raise`: a `CreditFailedError`.
        deadline: seconds for each call, all attempts included.
        ready_within: seconds to wait at the start for a judge that is being loaded.
        api_key: by default CAPO_API_KEY.
        options: `voting`, `reward`, `segment`, `show_reference`, `priority`, as in `wire`.

    Raises:
        UnavailableError: no service answers at the URL.
        InvalidRequestError: an option is unknown or has a wrong value.
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
        **options: Any,
    ) -> None:
        if fallback not in FALLBACKS:
            raise ValueError(f"fallback is {fallback!r}; take one of {', '.join(FALLBACKS)}")
        make_options(**options)
        self.tokenizer = tokenizer
        self.fallback: Fallback = fallback
        self.deadline = deadline
        self.counts: Counter[str] = Counter()
        self.reward = wire.Reward.model_validate(options.get("reward") or {})
        self._options = options
        self._name = tokenizer_name
        self._told: set[str] = set()
        self._unusable: int | None = 0  # rollouts that could not be sent; None: one could be
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
        return self._name is not None

    async def _connect(self, ready_within: float) -> None:
        try:
            info = await self._client.info()
            await self._client.wait_until_ready(ready_within)
        except errors.UnavailableError as error:
            raise errors.UnavailableError(
                f"no reward service can be used at {self.url} ({error}): start one with `capo "
                "serve`, or name one by url or CAPO_URL",
                error.problem,
            ) from error
        if self._name is not None and self._name not in info.tokenizers:
            _log.warning(
                "the service at %s does not serve tokenizer %r (it has %s): offsets are computed "
                "here instead", self.url, self._name, ", ".join(info.tokenizers) or "none",
            )  # fmt: skip
            self._name = None

    async def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """Score rollouts, from any event loop; results in their order.

        Raises:
            ValueError: a rollout has ids, and there is no tokenizer for them; none of the first 64
                rollouts could be sent; or one of those below, and `fallback` is `raise`.
            ProblemResponseError: the service refuses the request itself, as for a wrong key.
            CreditFailedError: a rollout was not credited, and `fallback` is `raise`.
        """
        return await asyncio.wrap_future(self._work.start(self._score(samples)))

    def score_now(self, samples: Sequence[Sample]) -> list[Scored]:
        """As `score`, for code that is not asynchronous; waits."""
        return self._work.run(self._score(samples))

    async def _score(self, samples: Sequence[Sample]) -> list[Scored]:
        asked = [self._asked(position, sample) for position, sample in enumerate(samples)]
        bodies = {n: each.body for n, each in enumerate(asked) if each.body is not None}
        answers: dict[int, Answer | Exception] = {
            n: each.error for n, each in enumerate(asked) if each.error is not None
        }
        if bodies:
            try:
                batch = await self._client.credit(
                    list(bodies.values()), deadline=self.deadline, **self._options
                )
                answers |= {
                    n: checked(answer, asked[n].flags)
                    for n, answer in zip(bodies, batch, strict=True)
                }
            except (errors.UnavailableError, errors.DeadlineExceededError) as error:
                answers |= dict.fromkeys(bodies, error)
        self._raise_if_none_can_be_sent(asked)
        scored = [
            self._scored(sample, each, answers.get(n))
            for n, (sample, each) in enumerate(zip(samples, asked, strict=True))
        ]
        self.counts.update(each.source for each in scored)
        if self.fallback == "raise":
            lost = [a for a in answers.values() if isinstance(a, wire.Failed)]
            if lost:
                raise errors.CreditFailedError(lost)
            for answer in answers.values():
                if isinstance(answer, Exception):
                    raise answer
        return scored

    def _raise_if_none_can_be_sent(self, asked: Sequence[Asked]) -> None:
        """A row that cannot be sent fails alone; if all do from the start, the settings are wrong.

        Raises:
            ValueError: the last row's error.
        """
        if self._unusable is None:
            return
        unusable = [each.error for each in asked if each.error is not None]
        if len(unusable) < len(asked):
            self._unusable = None
            return
        self._unusable += len(unusable)
        if self._unusable >= _MOST_UNUSABLE:
            raise ValueError(
                f"none of the first {self._unusable} rollouts could be sent: {unusable[-1]}"
            )

    def _asked(self, position: int, sample: Sample) -> Asked:
        flags = outcome = None
        try:
            if sample.ids is not None:
                flags = policy_flags(sample.ids, sample.mask)
            outcome = outcome_of(sample.outcome)
            body = self._body(sample, flags, outcome)
        except _NoTokenizerError:
            raise
        except _UNREADABLE as error:
            told = error if isinstance(error, ValueError) else ValueError(_unreadable(error))
            return Asked(None, flags, outcome, told)
        return Asked(body and body | {"id": str(position)}, flags, outcome)

    def _body(
        self, sample: Sample, flags: list[bool] | None, outcome: float | None
    ) -> dict[str, Any] | None:
        answer = self._answer(sample, flags)
        if not answer.get("response_token_ids") and not (answer.get("response") or "").strip():
            return None
        reference = reference_of(sample.reference)
        if reference is None and outcome is None and self.reward.scheme != "process_only":
            raise ValueError(
                "a rollout has neither a reference answer nor an outcome: name the data's column "
                "that holds one, or set reward={'scheme': 'process_only'}"
            )
        prompt: dict[str, Any] = (
            {"question": sample.prompt}
            if isinstance(sample.prompt, str)
            else {
                "messages": [
                    {"role": turn["role"], "content": content_text(turn)} for turn in sample.prompt
                ]
            }
        )
        return prompt | {"reference": reference, "outcome": outcome} | answer

    def _answer(self, sample: Sample, flags: list[bool] | None) -> dict[str, Any]:
        if sample.ids is None or flags is None:
            return {"response": sample.text}
        ids = [int(token) for token in sample.ids]
        # The service joins ids of a name without a break, which turns need.
        if self._name is not None and all(flags):
            return {"response_token_ids": ids, "tokenizer": self._name}
        if self.tokenizer is None:
            raise _NoTokenizerError(
                "rollouts come as token ids: give the policy's tokenizer, or tokenizer_name if "
                "the service serves it and no token is masked"
            )
        text, spans = decode_turns(self.tokenizer, ids, flags)
        return {"response": text, "token_offsets": spans}

    def _scored(self, sample: Sample, asked: Asked, answer: Answer | Exception | None) -> Scored:
        flags, outcome = asked.flags, asked.outcome
        if isinstance(answer, wire.Credited):
            return from_credit(answer, flags)
        if answer is None:  # blank: no step is wrong, and no answer is right
            outcome = outcome or 0.0
            return constant(self._of_outcome(outcome), flags, outcome, "judge", None)
        error = str(answer) if isinstance(answer, Exception) else _reason(answer)
        if error not in self._told:
            self._told.add(error)
            _log.warning("a rollout was not credited (fallback: %s): %s", self.fallback, error)
        unknown = sample.ids is not None and flags is None  # which ids are the policy's
        if self.fallback == "outcome" and outcome is not None and not unknown:
            return constant(self._of_outcome(outcome), flags, outcome, "outcome", error)
        return Scored(None, None, outcome, source="none", error=error)

    def _of_outcome(self, outcome: float) -> float:
        return 0.0 if self.reward.scheme == "process_only" else self.reward.w_whole * outcome

    def close(self) -> None:
        """Close the connection. May be called more than once."""
        self._work.stop(self._client.aclose)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_work"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._client = copy(self._client)  # its own, also where a copy is made without a pickle
        self._work = BackgroundWork()


def default_scorer() -> Scorer:
    """The scorer of frameworks that name a function and nothing else.

    Its arguments are the JSON object in CAPO_OPTIONS, such as
    `{"voting": {"n": 8}, "fallback": "outcome"}`; made once in each process.
    """
    return _scorer_of(os.getpid())  # one made before a fork has no thread in the child


@cache
def _scorer_of(_: int) -> Scorer:
    given = os.environ.get("CAPO_OPTIONS") or "{}"
    try:
        options = json.loads(given)
        if not isinstance(options, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ValueError(f"CAPO_OPTIONS must hold a JSON object, not {given!r}: {error}") from None
    return Scorer(**options)


def _unreadable(error: Exception) -> str:
    return f"the rollout cannot be read: {type(error).__name__}: {error}"


def _reason(failed: wire.Failed) -> str:
    problem = failed.error
    return f"{problem.status} {problem.title}: {problem.detail}"
