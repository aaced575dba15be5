"""Why the pipeline refuses a request or a rollout; `api.problems` turns these into HTTP answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import capo_wire as wire
from capo_service.core.errors import InputError


class NotReadyError(Exception):
    """The service serves no requests at the moment.

    Attributes:
        reason: `not-ready` (loading or broken), `draining`, or `engine-dead`.
        retry_after: whole seconds until it is expected to be ready; None where unknown.
    """

    def __init__(
        self,
        reason: Literal["not-ready", "draining", "engine-dead"],
        detail: str,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after


class BatchTooLargeError(Exception):
    """A request with more judge tokens than the queue's capacity."""


class ContextExceededError(InputError):
    """A prompt and its critique do not fit into the judge's context.

    `needed` and `context`: in tokens.
    """

    def __init__(self, detail: str, field: str, needed: int, context: int) -> None:
        super().__init__(detail, field=field, problem="context-exceeded")
        self.needed = needed
        self.context = context


class NoValidCritiqueError(Exception):
    """No critique of a rollout could be parsed, so nothing is known about its steps.

    `critiques` and `usage`: the texts of the critiques, and their tokens.
    """

    def __init__(self, message: str, critiques: Sequence[wire.Critique], usage: wire.Usage) -> None:
        super().__init__(message)
        self.critiques = critiques
        self.usage = usage
