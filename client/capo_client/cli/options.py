"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from capo_wire import DEFAULT_CRITIQUES, Voting

DEFAULT_METHOD = str(Voting.model_fields["method"].default)
DEFAULT_TEMPERATURE = float(Voting.model_fields["temperature"].default)

UrlOption = Annotated[
    str | None,
    typer.Option(help="URL of the service.", envvar="CAPO_URL", show_default="this machine's"),
]
ApiKeyOption = Annotated[
    str | None, typer.Option(help="API key, sent as a bearer token.", envvar="CAPO_API_KEY")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
MethodOption = Annotated[str, typer.Option(help="Voting method.")]
CritiquesOption = Annotated[int, typer.Option(help="Critiques per rollout.")]

__all__ = [
    "DEFAULT_CRITIQUES",
    "DEFAULT_METHOD",
    "DEFAULT_TEMPERATURE",
    "ApiKeyOption",
    "CritiquesOption",
    "JsonOption",
    "MethodOption",
    "UrlOption",
]
