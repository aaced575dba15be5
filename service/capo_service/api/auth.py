"""The API key behind a request, and whether it has the role that a route needs."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request

from capo_service.api import problems
from capo_service.scheduling.api_keys import ApiKey, KeyRing, Role


def require(keys: KeyRing, role: Role) -> Callable[[Request], ApiKey]:
    """A FastAPI dependency that returns the client's key, which must have this role.

    Raises (when called):
        ProblemError: 401 without a valid key, 403 for a key without the role.
    """

    def caller(request: Request) -> ApiKey:
        key = keys.find(request.headers.get("authorization"))
        if key is None:
            raise problems.error("unauthorized", "send Authorization: Bearer <an API key>")
        if role not in key.roles:
            raise problems.error("forbidden", f"the key {key.name} lacks the role {role}")
        return key

    return caller
