"""Splits an answer into its items: a list, set, union of intervals, tuple, or one value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from capo_wire.answers.notation import as_text

_OPENING, _CLOSING = "([{", ")]}"
_SEPARATOR = re.compile(
    r",|;|\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
)
_COMMA = re.compile(r"[,;]")
_UNION = re.compile(r"\\cup(?![A-Za-z])")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Parts:
    """The items of an answer.

    `kind`: `list`, `set` (in braces) or `union` (of intervals), all without an order; the two
    brackets of a tuple or interval (`()`, `[)`, ...); empty for a single value.
    """

    kind: str
    items: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Parts:
        """Split an answer into its items."""
        text = text.strip()
        if _closes_at_end(text) and len(both := _both_signs((text,))) > 1:
            return cls("list", both)  # (\pm 1, 0)
        items = _split(text, _SEPARATOR)
        if len(items) > 1:
            return cls("list", _both_signs(items))
        if text.startswith("\\{") and text.endswith("\\}"):
            return cls("set", _both_signs(_split(text[2:-2], _SEPARATOR)))
        if len(union := _split(text, _UNION)) > 1:
            return cls("union", union)
        if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closes_at_end(text):
            items = _split(text[1:-1], _COMMA)
            if len(items) > 1:
                return cls(text[0] + text[-1], items)
        items = _both_signs((text,))
        return cls("list" if len(items) > 1 else "", items)


def _split(text: str, separator: re.Pattern[str]) -> tuple[str, ...]:
    """Split at separators outside of brackets and of numbers."""
    if _THOUSANDS.fullmatch(text.strip()):
        return (text.strip(),)
    items, depth, begin, position = [], 0, 0, 0
    while position < len(text):
        match = separator.match(text, position) if depth == 0 else None
        if match:
            items.append(text[begin:position])
            begin = position = match.end()
            continue
        depth = max(0, depth + (text[position] in _OPENING) - (text[position] in _CLOSING))
        position += 1
    items.append(text[begin:])
    return tuple(item.strip() for item in items if item.strip())


def distinct(items: Sequence[str]) -> list[str]:
    """The items without repetitions: {1, 1, 2} is {1, 2}."""
    return list({as_text(item): item for item in items}.values())


def _closes_at_end(text: str) -> bool:
    """Whether one pair of brackets encloses the whole text."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return position == len(text) - 1
    return False


def _both_signs(items: Sequence[str]) -> tuple[str, ...]:
    """`1 \\pm \\sqrt{2}` is two values."""
    both: list[str] = []
    for item in items:
        if len(_PLUS_MINUS.findall(item)) == 1:
            both += [_PLUS_MINUS.sub(sign, item).strip() for sign in "+-"]
        else:
            both.append(item)
    return tuple(both)
