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
        help="Jinja file that replaces the built-in prompt template.",
        rich_help_panel=JUDGE_PANEL,
    ),
]
StyleOption = Annotated[
    CritiqueStyle | None,
    typer.Option(
        help="Length of a critique.",
        show_default="brief; verdict for the demo judge",
        rich_help_panel=JUDGE_PANEL,
    ),
]
