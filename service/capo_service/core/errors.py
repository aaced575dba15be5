"""The one error that the core raises: the caller's input cannot be credited, and why."""

from __future__ import annotations


class InputError(ValueError):
    """Input that a caller can mend. `field` names the part of the rollout that is at fault."""

    def __init__(self, detail: str, *, field: str | None = None, problem: str = "invalid-rollout"):
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.problem = problem
