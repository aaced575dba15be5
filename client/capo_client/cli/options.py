"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from capo_client.async_client import DEFAULT_URL
from capo_wire import DEFAULT_CRITIQUES, MOST_CRITIQUES, Voting, VotingMethod

DEFAULT_METHOD: VotingMethod = Voting().method
DEFAULT_TEMPERATURE = "the judge profile's"

METHOD_HELP = "How the critiques' votes on a step are combined."
TEMPERATURE_HELP = "Sampling temperature of the judge, 0 to 2."
CRITIQUES_HELP = "Critiques per rollout (k)."

UrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="URL of the service.", envvar="CAPO_URL", show_default=DEFAULT_URL
    ),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="API key, sent as Authorization: Bearer KEY.",
        envvar="CAPO_API_KEY",
        show_default="no key",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object.")]
MethodOption = Annotated[VotingMethod, typer.Option(help=METHOD_HELP)]
CritiquesOption = Annotated[
    int, typer.Option("--n", "-k", min=1, max=MOST_CRITIQUES, help=CRITIQUES_HELP)
]
ExactOption = Annotated[
    bool,
    typer.Option(
        "--exact",
        metavar="",
        help="Compute vote shares exactly, from the judge's token probabilities, instead of "
        "sampling critiques; --n limits the requests.",
        rich_help_panel="Voting",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(min=0, help="Random seed of the judge.", show_default="random"),
]

__all__ = [
    "CRITIQUES_HELP",
    "DEFAULT_CRITIQUES",
    "DEFAULT_METHOD",
    "DEFAULT_TEMPERATURE",
    "METHOD_HELP",
    "TEMPERATURE_HELP",
    "ApiKeyOption",
    "CritiquesOption",
    "ExactOption",
    "JsonOption",
    "MethodOption",
    "SeedOption",
    "UrlOption",
]
