r"""The answer in a critique, and the contents of its `\boxed{...}`, as judges write them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from capo_wire.special_text import after_thoughts

_BOX = re.compile(r"\\f?box(?:ed)?(?![a-z])\s{0,4}(\{)?")
_MARKER_STARTS = ("<", "[", "◁", "a")
_LONGEST_MARKER = 80  # characters of a marker that opens a thought
_LONGEST = 80  # characters of a box's content
_WIDE = str.maketrans("０１２３４５６７８９－−–", "0123456789---")  # noqa: RUF001
_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf|texttt|emph)\s{0,4}(?=\{)")
_MARKS = re.compile(r"[{}$*`\"'\\]|\\[,;! ]")


@dataclass(frozen=True, slots=True)
class Box:
    r"""A `\boxed{...}`.

    Attributes:
        start: where it begins.
        end: where it ends.
        content: in lower case, without commands and marks; None if it is not closed.
    """

    start: int
    end: int
    content: str | None


def answer_of(text: str) -> str:
    """The part of a critique behind its thought, if it has one.

    Raises:
        ValueError: the thought is not ended.
    """
    answer = after_thoughts(text)
    if answer is not None:
        return answer
    # A marker inside the text is quoted: a rollout of a policy that thinks contains some.
    start = text.lstrip()[:_LONGEST_MARKER]
    if start.startswith(_MARKER_STARTS) and after_thoughts(start) is None:
        raise ValueError("its reasoning was not ended, so it has no verdict")
    return text


def boxes(text: str) -> Iterator[Box]:
    r"""Every `\boxed{...}` of a text, in order."""
    return (_box(text, found) for found in _BOX.finditer(text))


def last_box(text: str) -> Box | None:
    r"""The last `\boxed{...}` of a text."""
    found = deque(_BOX.finditer(text), maxlen=1)
    return _box(text, found[0]) if found else None


def _box(text: str, found: re.Match[str]) -> Box:
    end = _closing(text, found.end()) if found[1] else None
    if end is None:
        return Box(found.start(), found.end(), None)
    return Box(found.start(), end, _plain(text[found.end() : end - 1]))


def _closing(text: str, start: int) -> int | None:
    """The end of the braces that are open at `start`; None if they are not closed soon."""
    depth = 1
    for at in range(start, min(len(text), start + _LONGEST)):
        if text[at] in "{}":
            depth += 1 if text[at] == "{" else -1
            if depth == 0:
                return at + 1
    return None


def _plain(content: str) -> str:
    bare = _MARKS.sub("", _COMMAND.sub("", content.translate(_WIDE)))
    return " ".join(bare.lower().split()).removesuffix(".")
