"""Input and output types of the pipeline."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import capo_wire as wire


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """A request: its options, and each rollout or the reason why it was refused.

    `ids` and `items` are in the order of the request. `request_id` names its answer, also in the
    live view.
    """

    options: wire.CreditOptions
    ids: Sequence[str]
    items: Sequence[wire.Rollout | wire.Failed]
    request_id: str = field(default_factory=lambda: f"cr_{secrets.token_hex(8)}")

    @property
    def rollouts(self) -> list[wire.Rollout]:
        """The rollouts that were not refused."""
        return [item for item in self.items if isinstance(item, wire.Rollout)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A credited rollout.

    Attributes:
        result: with all fields that `include` may name.
        queue_seconds: queue time.
        engine_seconds: time of its critiques and of the concurrent verification.
        cached: whether it was judged for another request, earlier or at the same time.
    """

    result: wire.Credited
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0
    cached: bool = False


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The result of the rollout at `position` of a batch: credited, refused, or failed."""

    position: int
    outcome: Judged | wire.Failed

    @property
    def result(self) -> wire.Credited | wire.Failed:
        """The answer in the terms of the wire."""
        return self.outcome.result if isinstance(self.outcome, Judged) else self.outcome
