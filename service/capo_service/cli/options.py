"""Options that several commands of the service have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TemplateOption = Annotated[
    Path | None, typer.Option(help="Jinja file that replaces the built-in prompt template.")
]
StyleOption = Annotated[
    str | None, typer.Option(help="Length of a critique: `verdict`, `brief` or `full`.")
]
