"""Options of `capo credit` that say what the judge sees as steps and observations."""

from __future__ import annotations

from typing import Annotated

import typer

import capo_wire as wire

_PANEL = "Steps"  # of the help

SegmentOption = Annotated[
    wire.SegmentMethod | None,
    typer.Option(
        help="Where a response is split into steps; given: at the steps of each rollout; turn: a "
        "step for each turn of a trajectory.",
        show_default="turn for trajectories, else blank_line",
        rich_help_panel=_PANEL,
    ),
]
PatternOption = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="RE2 pattern for --segment regex.", rich_help_panel=_PANEL),
]
MaxStepsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Merge short neighbouring steps until there are at most so many.",
        show_default="the service's",
        rich_help_panel=_PANEL,
    ),
]
MinCharactersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Merge steps that are shorter than this with a neighbour.",
        rich_help_panel=_PANEL,
    ),
]
ObservationTokensOption = Annotated[
    int | None,
    typer.Option(
        min=16,
        metavar="N",
        help="Maximum tokens of an observation that the judge is shown.",
        show_default="the service's",
        rich_help_panel=_PANEL,
    ),
]
