"""Parts of grammars in GBNF."""

from __future__ import annotations


def literal(text: str) -> str:
    """A terminal that matches `text`; nothing for an empty one."""
    if not text:
        return ""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
