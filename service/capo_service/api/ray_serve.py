"""The service as a Ray Serve application, for clusters that already run Ray.

    serve deploy deploy/ray/serve.yaml

Every replica is a whole service with its own judge, and takes requests once the judge is loaded.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from ray import serve

from capo_service.api.app import create_app
from capo_service.concurrency import gc_tuning
from capo_service.concurrency.process import prepare_process
from capo_service.observability import logs, tracing
from capo_service.pipeline.loading import make_backend
from capo_service.settings import load

log = logging.getLogger(__name__)


@serve.deployment
@serve.ingress()
class CreditService:
    """One replica.

    Args:
        settings: those of `capo serve`; CAPO_* variables apply as well.

    Raises:
        SettingsError: a setting is unknown or has a wrong value.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        loaded = load(None, **settings)
        logs.set_up(loaded)
        prepare_process()
        self._flush = tracing.set_up(loaded)
        engine = make_backend(loaded)
        self._app = create_app(loaded, engine, on_ready=gc_tuning.freeze_existing, wait=True)
        if self._app.state.service.keys.open:
            log.warning(
                "no API key is needed: anyone who reaches Ray's proxy can use the judge. Set "
                "api_keys_file in the application's args (`capo key NAME` makes an entry)"
            )

    def __serve_build_asgi_app__(self) -> FastAPI:  # Ray's name
        return self._app

    async def check_health(self) -> None:
        """Raise if the service has failed permanently: Ray then replaces the replica."""
        service = self._app.state.service
        if service.dead:
            raise RuntimeError(service.failure.detail)

    def __del__(self) -> None:
        self._flush()


def app(settings: dict[str, Any]) -> serve.Application:
    """The `import_path` of Ray's configuration file, whose `args` are the settings."""
    return CreditService.bind(settings)  # type: ignore[attr-defined]  # the decorator's
