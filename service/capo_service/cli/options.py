"""Options that several commands of the service take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TemplateOption = Annotated[
    Path | None, typer.Option(help="A prompt template in place of the built-in.")
]
StyleOption = Annotated[str | None, typer.Option(help="`verdict`, `brief` or `full`.")]
