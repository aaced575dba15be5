"""Text -> step spans (CAPO, section 3.2: the paper cuts a rollout on blank lines).

Every function returns character spans `(start, end)` that tile the text: the first starts at 0,
each starts where the previous one ends, the last ends at `len(text)`. Blank text between steps
belongs to the step before it. Blank text alone has no step: the result is `[]`.

The service, the trainer and the testbed cut by these functions. They take linear time for any text
and import only the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

Span = tuple[int, int]

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")  # \s holds \r: line ends may be \r\n
_NEWLINE = re.compile(r"\n\s*")
# A run of full stops is matched once, from its first character: linear even for "......".
_SENTENCE_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’)\]}*_]*+\s+|[。！？]++["”’」』)]*+\s*|\n\s*"""
)
_NOT_AN_END = re.compile(
    r"(?:(?:^|\n)\s*\(?\d{1,3}|\b(?:Mr|Mrs|Ms|Dr|St|vs|cf|e\.g|i\.e|approx|Eq|Fig|No))\Z"
)
_LOOK_BACK = 12  # characters; longer than anything _NOT_AN_END can match


def blank_line(text: str) -> list[Span]:
    """Cut where a blank line ends: the paper's steps."""
    return tile(text, (match.end() for match in _BLANK_LINE.finditer(text)))


def newline(text: str) -> list[Span]:
    """Cut at every line that holds text."""
    return tile(text, (match.end() for match in _NEWLINE.finditer(text)))


def sentence(text: str) -> list[Span]:
    """Cut after every sentence and at every line, but not after `1.` or `e.g.`."""
    cuts = []
    for match in _SENTENCE_END.finditer(text):
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if match[0][0] != "." or not _NOT_AN_END.search(before):
            cuts.append(match.end())
    return tile(text, cuts)


def blank_line_steps(text: str) -> list[str]:
    """The texts of the steps that `blank_line` cuts, without the blanks around them."""
    return [text[start:end].strip() for start, end in blank_line(text)]


def tile(text: str, cuts: Iterable[int], within: Span | None = None) -> list[Span]:
    """Spans from ascending positions to cut at; blank pieces join the step before.

    They tile the part `within` of the text; None: all of it.
    """
    begin, size = within or (0, len(text))
    edges = pairwise([begin, *cuts, size])
    starts = [start for start, end in edges if text[start:end].strip()]
    if not starts:
        return []
    starts[0] = begin
    return list(pairwise([*starts, size]))
