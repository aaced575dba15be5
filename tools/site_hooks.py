"""MkDocs: what a page names of the repository, outside docs/, is a name there and no link."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Unlink them."""
    return _OUTSIDE.sub(r"\1", markdown)
