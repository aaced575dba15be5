"""The trainer's side of the service: rollouts go out while others are sampled."""

from __future__ import annotations

import importlib.metadata
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import capo_wire as wire
from capo_client import AsyncCreditClient, CapoError, Credited, CreditSession
from capo_client._background_loop import BackgroundWork
from capo_trainer import recipe
from capo_trainer.recipe import RecipeError
from capo_trainer.sampling import Rollout


@dataclass(frozen=True, slots=True)
class Credit:
    """What the service said of one rollout of L tokens.

    `penalties`: share of W_process taken from each token, in [0, 1]. `wrong`: one bool a step.
    """

    penalties: list[float]
    wrong: list[bool]


@dataclass(slots=True)
class Collected:
    """The credit of one step's rollouts, by position; what is missing has its reason counted."""

    credits: dict[int, Credit] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    usage: wire.Usage = field(default_factory=wire.Usage)
    kept: dict[int, Credited] = field(default_factory=dict)  # the whole results of the first few
    waited: float = 0.0  # seconds, from the end of sampling to the last credit

    def add(self, other: Collected, first: int) -> None:
        """Another process's rollouts, which stand from `first` on."""
        self.credits |= {first + position: credit for position, credit in other.credits.items()}
        self.kept |= {first + position: result for position, result in other.kept.items()}
        self.failures += other.failures
        self.usage += other.usage
        self.waited = max(self.waited, other.waited)


class CreditLink:
    """A connection to the service, which works while the policy samples. Close it at the end.

    Args:
        settings: how credit is asked for.
        run: the run's name, by which the service's live view can be filtered.
        keep: of how many rollouts of a step, the first, the whole result is kept.

    Raises:
        RecipeError: the service is not there, is of another version, or does not serve the
            policy's tokenizer.
    """

    def __init__(self, settings: recipe.Credit, run: str | None = None, keep: int = 0) -> None:
        self._settings = settings
        self._keep = keep
        self._work = BackgroundWork()
        self._client = AsyncCreditClient(settings.url)
        self._options = _options(settings) | {"run": run[:128] if run else None}
        if keep:
            self._options["include"] = ["token_rewards", "critiques"]
        self._session: CreditSession | None = None
        self._sent: list[int] = []  # positions, in the order of submission
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
            raise RecipeError(
                f"the reward service cannot be used: {error}. Start one (`capo serve`), or name "
                "one by credit.url or CAPO_URL"
            ) from error
        ours = our_version()
        if _series(info.version) != _series(ours) and not self._settings.allow_other_version:
            raise RecipeError(
                f"the service at {self._client.url} is version {info.version} and this trainer "
                f"{ours}: install the same on both, or set credit.allow_other_version = true"
            )
        if self._settings.tokenizer not in info.tokenizers:
            raise RecipeError(
                f"the service at {self._client.url} does not serve tokenizer "
                f"{self._settings.tokenizer!r}, but {', '.join(info.tokenizers) or 'none'}: name "
                "one of these in credit.tokenizer, or start it with "
                f'--set \'tokenizers={{"{self._settings.tokenizer}": "FOLDER"}}\''
            )
        return info

    def begin(self) -> None:
        """Before a step's rollouts are sent: its deadline starts to run."""
        self._sent.clear()
        self._session = self._work.run(self._open())

    async def _open(self) -> CreditSession:
        await self._leave()
        return self._client.session(deadline=self._settings.deadline, **self._options)

    async def _leave(self) -> None:
        """Take back what was sent and not collected."""
        if self._session is not None:
            await self._session.aclose()

    def send(self, rollouts: Sequence[tuple[int, Rollout, float | None]]) -> None:
        """Send rollouts, each with its position and outcome. Returns at once.

        Blank ones are not sent: there is no step to judge.
        """
        assert self._session is not None, "begin() comes first"  # noqa: S101
        full = [each for each in rollouts if each[1].text.strip()]
        if full:
            self._sent += [position for position, _, _ in full]
            bodies = [self._body(*each) for each in full]
            self._work.start(self._submit(self._session, bodies))

    async def _submit(self, session: CreditSession, bodies: list[dict[str, Any]]) -> None:
        session.submit(bodies)

    def _body(self, position: int, rollout: Rollout, outcome: float | None) -> dict[str, Any]:
        prompt = rollout.asked.prompt
        return {
            "id": str(position),
            "question": prompt.question,
            "response_token_ids": rollout.ids,
            "tokenizer": self._settings.tokenizer,
            "reference": prompt.answer,
            # Only the steps are asked for; the trainer weighs the outcome itself.
            "outcome": 0.0 if outcome is None else outcome,
        }

    def collect(self) -> Collected:
        """Wait for the credit of all that was sent since `begin`."""
        assert self._session is not None, "begin() comes first"  # noqa: S101
        started = time.monotonic()
        batch = self._work.run(self._session.collect())
        found = Collected(usage=batch.usage)
        for position, result in zip(self._sent, batch, strict=True):
            if isinstance(result, Credited):
                found.credits[position] = _credit_of(result)
                if position < self._keep:
                    found.kept[position] = result
            else:
                problem = result.error
                found.failures[f"{problem.status} {problem.title}: {problem.detail}"] += 1
        self._sent.clear()
        found.waited = time.monotonic() - started
        return found

    def close(self) -> None:
        """Take back what was sent, and close. May be called more than once."""
        self._work.stop(self._end)

    async def _end(self) -> None:
        await self._leave()
        await self._client.aclose()


class Bundles:
    """Gathers finished rollouts of a question and sends `size` of them together.

    A request for each would cost more than it gains; waiting for the last of a question would
    leave the judge idle.
    """

    def __init__(self, size: int, per_question: int, send: Callable[[list[int]], None]) -> None:
        self._size = size
        self._per_question = per_question
        self._send = send
        self._waiting: dict[int, list[int]] = {}
        self._seen: Counter[int] = Counter()

    def add(self, position: int) -> None:
        """The rollout at `position` is finished; those of a question stand side by side."""
        question = position // self._per_question
        self._waiting.setdefault(question, []).append(position)
        self._seen[question] += 1
        last = self._seen[question] == self._per_question
        if last or len(self._waiting[question]) == self._size:
            self._send(self._waiting.pop(question))


def _options(settings: recipe.Credit) -> dict[str, Any]:
    voting: dict[str, Any] = {
        "method": settings.method, "n": settings.n, "early_stop": settings.early_stop,
        "temperature": settings.temperature, "top_p": settings.top_p,
        "max_tokens": settings.max_tokens, "seed": settings.seed,
    }  # fmt: skip
    return {
        "voting": voting,
        # r_v * 0 - penalty * 1: the share itself, which the recipe's weights are applied to.
        "reward": {"scheme": "capo", "w_whole": 0.0, "w_process": 1.0},
        "segment": {"method": settings.segment},
        "show_reference": settings.show_reference,
    }


def _credit_of(result: Credited) -> Credit:
    rewards = result.token_rewards or []
    return Credit([-reward for reward in rewards], [step.wrong for step in result.steps])


def our_version() -> str:
    """The version of the distribution that this trainer is part of."""
    return importlib.metadata.version("capo-credit")


def _series(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
