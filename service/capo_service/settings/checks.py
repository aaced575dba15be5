"""Checks of settings that depend on each other, or on files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from capo_service.core.suspicion import CAPPABLE

if TYPE_CHECKING:
    from capo_service.settings.fields import Settings


def _check_upstream(settings: Settings) -> None:
    if settings.engine == "openai" and settings.upstream is None:
        raise ValueError(
            "engine openai needs upstream, the base URL of the server: --base-url http://HOST:PORT"
        )
    if settings.engine != "openai" and settings.upstream is not None:
        raise ValueError(
            f"upstream is for engine openai, and the engine is {settings.engine}: add "
            "--engine openai, or leave upstream out"
        )


def _check_engine(settings: Settings) -> None:
    if settings.engine == "openai" and "model" not in settings.model_fields_set:
        raise ValueError("engine openai needs model: the model's name on the server")
    if "model" in settings.engine_args:
        raise ValueError("engine_args has model: name the judge by the setting model alone")
    if settings.engine == "openai" and settings.engine_args:
        raise ValueError("engine_args are for engine vllm; configure the upstream itself")
    prompt = settings.template or settings.profile
    of_a_model = settings.engine_args or prompt or settings.symbolic_votes
    if settings.engine == "symbolic" and ("model" in settings.model_fields_set or of_a_model):
        raise ValueError(
            "engine symbolic has no model: leave out model, engine_args, profile, template and "
            "symbolic_votes"
        )


def _check_thinking(settings: Settings) -> None:
    if settings.thinking_markers is None:
        return
    opening, closing = (text.strip() for text in settings.thinking_markers)
    if not opening or not closing or closing in opening:
        raise ValueError(
            "thinking_markers are two texts that are not blank, and the closing one is not part of "
            f"the opening one; these are {list(settings.thinking_markers)}"
        )


def _check_tls(settings: Settings) -> None:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ValueError("tls_cert and tls_key go together: give both, or neither")
    if settings.tls_client_ca is not None and settings.tls_cert is None:
        raise ValueError("tls_client_ca needs tls_cert and tls_key")


def _check_suspicion(settings: Settings) -> None:
    capped = {reason for reason, action in settings.suspicion.items() if action == "cap"}
    if impossible := sorted(capped - set(CAPPABLE)):
        raise ValueError(
            f"suspicion {', '.join(impossible)}: cap is for steps ({', '.join(CAPPABLE)}); use "
            "off, flag or wrong"
        )


def _check_files(settings: Settings) -> None:
    for name in ("tls_cert", "tls_key", "tls_client_ca", "canary_file", "template"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise ValueError(f"{name} {path} is not a file")


# Each raises ValueError with what to change.
ALL: tuple[Callable[[Settings], None], ...] = (
    _check_upstream,
    _check_engine,
    _check_thinking,
    _check_tls,
    _check_suspicion,
    _check_files,
)
