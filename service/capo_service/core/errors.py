"""The only error that the core raises: the client's input cannot be credited."""

from __future__ import annotations


class InputError(ValueError):
    """Input that the client can correct.

    Attributes:
        detail: what is wrong, and what to change.
        field: the part of the rollout that is wrong.
        problem: the kind of problem, as in the HTTP API's error documents.
    """

    def __init__(self, detail: str, *, field: str | None = None, problem: str = "invalid-rollout"):
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.problem = problem
