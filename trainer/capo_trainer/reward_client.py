"""The trainer's side of the service: rollouts are credited while others are sampled."""

from __future__ import annotations

import importlib.metadata
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import capo_wire as wire
from capo_client import AsyncCreditClient, CapoError, CreditSession
from capo_client._background_loop import BackgroundWork
from capo_trainer.errors import RewardServiceError, TokenizerNotServedError
from capo_trainer.sections import CreditSection
from capo_trainer.types import RolloutCredit, SampledRollout, StepCredit

_BATCH_SIZE = 16  # rollouts in a request of `credit_all`

Item = tuple[int, SampledRollout, float | None]  # position, rollout, outcome


class RewardClient:
    """A connection to the service. Each step: `begin`, `submit` every rollout, `collect`.

    Args:
        settings: how credit is asked for.
        rollouts_per_question: of a step, side by side.
        run: the run's name, by which the service's live view can be filtered.
        keep: number of rollouts of a step, the first ones, whose whole result is kept.

    Raises:
        RewardServiceError: the service cannot be used, or is of another version.
        TokenizerNotServedError: it does not serve the policy's tokenizer.
    """

    def __init__(
        self,
        settings: CreditSection,
        rollouts_per_question: int,
        run: str | None = None,
        keep: int = 0,
    ) -> None:
        self._settings = settings
        self._rollouts_per_question = rollouts_per_question
        self._run = run[:128] if run else None
        self._keep = keep
        self._work = BackgroundWork()
        # A bundle is one request: the client, which cuts at batch_size, must not cut it again.
        self._client = AsyncCreditClient(settings.url, batch_size=max(settings.bundle, _BATCH_SIZE))
        self._session: CreditSession | None = None
        self._bundles = Bundles(settings.bundle, rollouts_per_question)
        self._submitted: list[int] = []  # positions, in order of submission
        try:
            self.info = self._work.run(self._check())
        except BaseException:
            self.close()
            raise

    async def _check(self) -> wire.Info:
        try:
            await self._client.wait_until_ready(self._settings.ready_within)
            info = await self._client.info()
        except CapoError as error:
            raise RewardServiceError(
                f"the reward service cannot be used: {error}. Start one (`capo serve`), or name "
                "one by credit.url or CAPO_URL"
            ) from error
        ours = our_version()
        if _series(info.version) != _series(ours) and not self._settings.allow_other_version:
            raise RewardServiceError(
                f"the service at {self._client.url} is version {info.version} and this trainer "
                f"{ours}: install the same on both, or set credit.allow_other_version = true"
            )
        if self._settings.tokenizer not in info.tokenizers:
            raise TokenizerNotServedError(
                f"the service at {self._client.url} does not serve tokenizer "
                f"{self._settings.tokenizer!r}, but {', '.join(info.tokenizers) or 'none'}: name "
                "one of these in credit.tokenizer, or start it with "
                f'--set \'tokenizers={{"{self._settings.tokenizer}": "FOLDER"}}\''
            )
        return info

    def begin(self) -> None:
        """Start a step: its deadline starts to run, and what is left of the last one is dropped."""
        self._submitted.clear()
        self._bundles = Bundles(self._settings.bundle, self._rollouts_per_question)
        self._session = self._work.run(self._open())

    async def _open(self) -> CreditSession:
        await self._cancel()
        settings = self._settings
        return self._client.session(
            deadline=settings.deadline,
            voting=settings.voting,
            # r_v * 0 - penalty * 1: the penalty itself, which the recipe's weights apply to.
            reward=wire.Reward(w_whole=0.0, w_process=1.0),
            segment=settings.segmentation,
            show_reference=settings.show_reference,
            include=["token_rewards", "critiques"] if self._keep else None,
            run=self._run,
        )

    async def _cancel(self) -> None:
        """Cancel what was submitted and not collected."""
        if self._session is not None:
            await self._session.aclose()

    def submit(self, position: int, rollout: SampledRollout, outcome: float | None) -> None:
        """Have a finished rollout credited, in a bundle with others of its question.

        Returns at once; what does not fill a bundle is sent by `collect` at the latest.
        """
        if bundle := self._bundles.add((position, rollout, outcome)):
            self._send(bundle)

    def _send(self, items: list[Item]) -> None:
        assert self._session is not None, "begin() comes first"  # noqa: S101
        # Blank rollouts are not sent: there is no step to judge.
        items = [item for item in items if item[1].own_text.strip()]
        if items:
            self._submitted += [position for position, _, _ in items]
            bodies = [self._body(*item) for item in items]
            self._work.start(_submit(self._session, bodies))

    def _body(
        self, position: int, rollout: SampledRollout, outcome: float | None
    ) -> Mapping[str, Any]:
        prompt = rollout.request.prompt
        mask = {} if rollout.mask is None else {"response_mask": rollout.mask}
        return mask | {
            "id": str(position),
            "question": prompt.question,
            "response_token_ids": rollout.ids,
            "tokenizer": self._settings.tokenizer,
            "reference": prompt.answer,
            # Only the steps are asked for; the trainer weighs the outcome itself.
            "outcome": 0.0 if outcome is None else outcome,
        }

    def collect(self) -> StepCredit:
        """Wait for the credit of all rollouts that were submitted since `begin`."""
        assert self._session is not None, "begin() comes first"  # noqa: S101
        started = time.monotonic()
        for bundle in self._bundles.rest():
            self._send(bundle)
        batch = self._work.run(self._session.collect())
        credit = StepCredit(usage=batch.usage)
        for position, result in zip(self._submitted, batch, strict=True):
            if isinstance(result, wire.Credited):
                credit.credits[position] = credit_of(result)
                if position < self._keep:
                    credit.results[position] = result
            else:
                problem = result.error
                credit.failures[f"{problem.status} {problem.title}: {problem.detail}"] += 1
        self._submitted.clear()
        credit.wait_seconds = time.monotonic() - started
        return credit

    def credit_all(
        self, rollouts: Sequence[SampledRollout], outcomes: Sequence[float | None]
    ) -> StepCredit:
        """Credit rollouts that are finished already, in requests of the client's batch size."""
        self.begin()
        self._send(list(zip(range(len(rollouts)), rollouts, outcomes, strict=True)))
        return self.collect()

    def close(self) -> None:
        """Cancel what was submitted, and close. May be called more than once."""
        self._work.stop(self._end)

    async def _end(self) -> None:
        await self._cancel()
        await self._client.aclose()


async def _submit(session: CreditSession, bodies: list[Mapping[str, Any]]) -> None:
    """`submit` of a session, which belongs to its event loop."""
    session.submit(bodies)


class Bundles:
    """Gathers finished rollouts of a question until `size` of them are there, or the last.

    One request each would cost more than it gains; waiting for the last of a question would leave
    the judge idle.
    """

    def __init__(self, size: int, rollouts_per_question: int) -> None:
        self._size = size
        self._rollouts_per_question = rollouts_per_question
        self._waiting: dict[int, list[Item]] = {}
        self._seen: Counter[int] = Counter()

    def add(self, item: Item) -> list[Item]:
        """The bundle that this rollout completes, or nothing."""
        question = item[0] // self._rollouts_per_question
        self._waiting.setdefault(question, []).append(item)
        self._seen[question] += 1
        last = self._seen[question] == self._rollouts_per_question
        if last or len(self._waiting[question]) == self._size:
            return self._waiting.pop(question)
        return []

    def rest(self) -> list[list[Item]]:
        """What has not filled a bundle."""
        waiting, self._waiting = self._waiting, {}
        return list(waiting.values())


def credit_of(result: wire.Credited) -> RolloutCredit:
    """Penalties are the negated rewards: under w_whole = 0, w_process = 1 a reward is -penalty."""
    return RolloutCredit(
        [-reward for reward in result.token_rewards or []],
        [step.wrong for step in result.steps],
        [step.token_span or (0, 0) for step in result.steps],
    )


def our_version() -> str:
    """The version of the distribution that this trainer is part of."""
    return importlib.metadata.version("capo-credit")


def _series(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
