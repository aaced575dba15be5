"""Reloads the API key file when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from capo_service.scheduling.api_keys import KeyFileError, KeyRing

log = logging.getLogger(__name__)
_POLL_SECONDS = 5.0  # between checks of the key file


class KeyWatch:
    """Keeps a key ring up to date with its file.

    Args:
        keys: the ring.
        on_reload: is given the result of each reload: `done` or `failed`.
    """

    def __init__(self, keys: KeyRing, on_reload: Callable[[str], None]) -> None:
        self._keys = keys
        self._on_reload = on_reload

    def reload(self) -> None:
        """Reload the key file; on an error the previous keys stay and the error is logged."""
        try:
            count = self._keys.reload()
        except KeyFileError as error:
            self._on_reload("failed")
            log.error("API key file not reloaded, keeping the previous keys: %s", error)
        else:
            self._on_reload("done")
            log.info("API keys loaded: %d", count)

    async def run(self) -> None:
        """Reload the key file whenever it has changed; runs until it is cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if self._keys.changed():
                self.reload()
