"""What the parts of the check share: the service, how fast it is, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import made_rollouts
from made_rollouts import Made

from capo_client import CreditBatch, CreditClient
from capo_wire import Info, Tokens

DEADLINE = 1800.0  # seconds for one request
_FEWER = "fewer rollouts than a fast machine gets, to keep to the time"
_FIRST = 2  # rollouts of the first run
# With step tags, template and critique.
_TYPICAL_CONTEXT, _LONG_CONTEXT = 3000, 7000
FULL_MINUTES = 15.0  # the shares of the parts are for this


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class Found:
    """What a part found. `numbers` is JSON; `notes` are for the reader of the report."""

    numbers: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, name: str, ok: bool, detail: str) -> None:
        self.checks.append(Check(name, ok, detail))


@dataclass(slots=True)
class Context:
    """A running service, and how much can be asked of it.

    Attributes:
        minutes: for all parts together.
        run: changes with every run, so that no prompt was ever seen before.
    """

    url: str
    client: CreditClient
    info: Info
    model: str
    ready_s: float
    minutes: float
    run: str

    def grow(self, found: Found, seconds: float, most: int, run: Callable[[int], float]) -> int:
        """Run with 2 rollouts, then four times as many, while the next run fits into `seconds`.

        Args:
            found: where it is noted that there were fewer than `most`.
            seconds: of a check of 15 minutes.
            most: rollouts.
            run: runs with so many rollouts, and returns the seconds that this took. The last run
                is the one that counts; those before it have warmed up the engine.

        Returns:
            The rollouts of the last run.
        """
        share = seconds * self.minutes / FULL_MINUTES
        count = min(_FIRST, most)
        taken = run(count)
        while count < most:
            more = min(4 * count, most)
            if taken * more / count > share:  # at most: a larger batch is more efficient
                if _FEWER not in found.notes:
                    found.notes.append(_FEWER)
                break
            count, taken = more, run(more)
        return count

    def credit(
        self, rollouts: Sequence[Made], voting: dict[str, Any], **options: Any
    ) -> tuple[float, CreditBatch]:
        """Seconds, and the results; an error of any rollout is raised."""
        sent = [each.sent() for each in rollouts]
        began = time.perf_counter()
        batch = self.client.credit(sent, deadline=DEADLINE, voting=voting, **options)
        return time.perf_counter() - began, batch.raise_for_errors()

    def tokens(self, tokenizer: str, text: str) -> Tokens:
        """A text as tokens of a tokenizer that the service serves."""
        sent = {"tokenizer": tokenizer, "response": text}
        response = httpx.post(f"{self.url}/tokens", json=sent, timeout=60, trust_env=False)
        response.raise_for_status()
        return Tokens.model_validate(response.json())

    def holds(self, tokens: int) -> bool:
        """Whether the judge's context has so many tokens."""
        return self.info.context_length is None or self.info.context_length >= tokens

    def groups(self, name: str, count: int, size: int, length: str = "typical") -> list[Made]:
        """Rollouts of this run, in groups of a question, that fit into the judge's context."""
        return made_rollouts.groups(f"{self.run} {name}", count, size, self.fitting(length))

    def fitting(self, length: str = "typical") -> str:
        """The length of rollouts, or a shorter one."""
        if not self.holds(_TYPICAL_CONTEXT):
            return "plain"
        return "typical" if length == "long" and not self.holds(_LONG_CONTEXT) else length


Part = Callable[[Context], Found]
