"""What goes into the pipeline and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import capo_wire as wire


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """A request: the options of all its rollouts, and each rollout, or why it was refused.

    `ids` and `items` are in the order of the request.
    """

    options: wire.CreditOptions
    ids: Sequence[str]
    items: Sequence[wire.Rollout | wire.Failed]

    @property
    def rollouts(self) -> list[wire.Rollout]:
        """Those that were not refused."""
        return [item for item in self.items if isinstance(item, wire.Rollout)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A credited rollout.

    Attributes:
        result: with everything that any caller may ask to be sent back.
        queue_seconds: how long it waited for its turn.
        engine_seconds: how long its critiques took, and the verification beside them.
        cached: whether it was judged for another request, earlier or at the same time.
    """

    result: wire.Credited
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0
    cached: bool = False


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What became of the rollout at `position` of a batch: credited, refused, or failed."""

    position: int
    outcome: Judged | wire.Failed | Exception
