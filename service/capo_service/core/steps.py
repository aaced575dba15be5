"""Text -> step spans (CAPO, section 3.2: the paper cuts a rollout on blank lines).

Every function returns character spans `(start, end)` that tile the text: the first starts at 0,
each starts where the one before ends, the last ends at `len(text)`. Blank text between steps
belongs to the step before it. Blank text alone has no step: the result is `[]`.

All of it takes linear time, whatever the text or the caller's pattern holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import re2

from capo_service.core.errors import InputError

Span = tuple[int, int]

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_NEWLINE = re.compile(r"\n\s*")
# A run of full stops is looked at once, from its first character: linear even for "......".
_SENTENCE_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’)\]}*_]*+\s+|[。！？]++["”’」』)]*+\s*|\n\s*"""  # noqa: RUF001  # typographic quotes and full stops are meant
)
_NOT_AN_END = re.compile(
    r"(?:(?:^|\n)\s*\(?\d{1,3}|\b(?:Mr|Mrs|Ms|Dr|St|vs|cf|e\.g|i\.e|approx|Eq|Fig|No))\Z"
)
_LOOK_BACK = 12  # characters; longer than anything _NOT_AN_END can match


def blank_line(text: str) -> list[Span]:
    """Cut where a blank line ends: the paper's steps."""
    return _tile(text, (match.end() for match in _BLANK_LINE.finditer(text)))


def newline(text: str) -> list[Span]:
    """Cut at every line that holds text."""
    return _tile(text, (match.end() for match in _NEWLINE.finditer(text)))


def sentence(text: str) -> list[Span]:
    """Cut after every sentence and at every line, but not after `1.` or `e.g.`."""
    cuts = []
    for match in _SENTENCE_END.finditer(text):
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if match[0][0] != "." or not _NOT_AN_END.search(before):
            cuts.append(match.end())
    return _tile(text, cuts)


def by_pattern(text: str, pattern: str, cut: Literal["before", "after"] = "before") -> list[Span]:
    """Cut before (or after) every match of an RE2 pattern (linear time, no look-around).

    Raises:
        InputError: the pattern is not valid RE2.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise InputError(
            f"segment.pattern is not a valid RE2 pattern: {reason}", field="segment.pattern"
        ) from None
    matches = compiled.finditer(text)
    return _tile(text, (m.start() if cut == "before" else m.end() for m in matches))


def given(text: str, spans: Sequence[Span]) -> list[Span]:
    """Check the caller's own spans; blank text between them joins the step before.

    Raises:
        InputError: a span is out of the text, overlaps the one before, or is blank; or text that
            is not blank lies in no span (the judge would never see it).
    """
    reached = 0
    for index, (start, end) in enumerate(spans):
        field = f"steps[{index}]"
        if not 0 <= start < end <= len(text):
            raise InputError(
                f"{field} = [{start}, {end}] is not a span of the response, which has "
                f"{len(text)} characters",
                field=field,
            )
        if start < reached:
            raise InputError(
                f"{field} starts at {start}, before the step before it ends ({reached})",
                field=field,
            )
        if text[reached:start].strip():
            raise _outside(reached, start, field)
        if not text[start:end].strip():
            raise InputError(f"{field} holds only blank text", field=field)
        reached = end
    if text[reached:].strip():
        raise _outside(reached, len(text), "steps")
    return _tile(text, [start for start, _ in spans[1:]])


def _outside(start: int, end: int, field: str) -> InputError:
    return InputError(
        f"characters {start} to {end} are not blank and lie in no step: put them in a step, or "
        "leave out of the response what the policy did not write (a tool's output; its tokens "
        "have empty token_offsets then)",
        field=field,
    )


def _tile(text: str, cuts: Iterable[int]) -> list[Span]:
    edges = pairwise([0, *cuts, len(text)])
    starts = [start for start, end in edges if not _is_blank(text, start, end)]
    if not starts:
        return []
    starts[0] = 0
    return list(pairwise([*starts, len(text)]))


def _is_blank(text: str, start: int, end: int) -> bool:
    return not text[start:end].strip()
