"""Options that several commands of the service have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capo_service.settings.judge import CritiqueStyle

JUDGE_PANEL = "Judge"

TemplateOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Jinja file that replaces the profile's prompt template.",
        rich_help_panel=JUDGE_PANEL,
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How the judge is spoken to: default, paper, first_error, boxed_steps, general, code, "
        "or a folder.",
        show_default="by the model's name",
        rich_help_panel=JUDGE_PANEL,
    ),
]
ThinkingOption = Annotated[
    int | None,
    typer.Option(
        "--thinking-tokens",
        min=0,
        metavar="N",
        help="Thinking budget: maximum tokens that the judge may think before each critique.",
        show_default="the profile's; 0 in default",
        rich_help_panel=JUDGE_PANEL,
    ),
]
StyleOption = Annotated[
    CritiqueStyle | None,
    typer.Option(
        help="Length of a critique.",
        show_default="the profile's; verdict for the demo judge",
        rich_help_panel=JUDGE_PANEL,
    ),
]
