"""Who may do what: the key behind a request, its role, and what its quota leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fastapi import Request

from capo_service.api import problems
from capo_service.observability.metrics import Telemetry
from capo_service.scheduling.api_keys import ApiKey, KeyFileError, KeyRing, Role
from capo_service.settings import Settings

log = logging.getLogger(__name__)
_POLL_SECONDS = 5.0  # between looks at the key file


class Access:
    """The keys of one service.

    Raises:
        KeyFileError: the key file cannot be used.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        plain = [key.get_secret_value() for key in settings.api_keys]
        self.keys = KeyRing(plain, settings.api_keys_file)
        self._telemetry = telemetry

    def require(self, role: Role) -> Callable[[Request], ApiKey]:
        """A dependency: the caller's key, which must have this role.

        Raises (when called):
            ProblemError: 401 without a key of ours, 403 for one without the role.
        """

        def caller(request: Request) -> ApiKey:
            key = self.keys.find(request.headers.get("authorization"))
            if key is None:
                raise problems.error("unauthorized", "send Authorization: Bearer <an API key>")
            if role not in key.roles:
                raise problems.error("forbidden", f"the key {key.name} has not the role {role}")
            return key

        return caller

    def reload(self) -> None:
        """Read the key file again; where that fails, the old keys stay and the log says why."""
        try:
            count = self.keys.reload()
        except KeyFileError as error:
            self._telemetry.key_reloads.labels("failed").inc()
            log.error("API key file not reloaded, keeping the previous keys: %s", error)
        else:
            self._telemetry.key_reloads.labels("done").inc()
            log.info("%d API keys are read", count)

    async def watch(self) -> None:
        """Read the key file again whenever it has changed; runs until it is cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if self.keys.changed():
                self.reload()
